"""Steps and scoring of a transformer over contexts: deduplicated against the same model on expanded rows.

A step encodes R contexts, lets B candidates read them and goes backward; the expanded form puts each candidate behind a
copy of its context and runs every layer over all of it, which gives the same outputs and gradients. Scoring puts
candidates of known users through the model with a cache of encoded contexts and without one. On a GPU, where one is
there, the same in bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, Timing, parse
from dedup_storage.training.context_cache import ContextCache, ContextKey
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts

WIDTH, HEADS, LAYERS = 64, 4, 2
FACTORS, CONTEXTS = (5, 20, 100), (128, 512, 2048)
# Requests of a step, so that the expanded form fits into memory and a step takes no more than seconds.
EXPANDED_TOKENS = {"small": 40_000, "full": 200_000}
CANDIDATES, USERS = 500, 4
# Tokens that the expanded form of scoring may have on a CPU: with the longest context one user is left of four.
SCORED_TOKENS = 1_100_000


class Inputs:
    """R contexts of one length and their candidates, on a device."""

    def __init__(self, factor: int, length: int, budget: int, device: str, dtype: torch.dtype) -> None:
        random = torch.Generator().manual_seed(0)
        requests = max(1, budget // (factor * length))
        self.tokens = torch.randn(requests * length, WIDTH, generator=random).to(device, dtype).requires_grad_()
        self.candidates = torch.randn(requests * factor, WIDTH, generator=random).to(device, dtype).requires_grad_()
        self.offsets = torch.arange(requests + 1, device=device) * length
        self.inverse = torch.repeat_interleave(torch.arange(requests, device=device), factor)


def in_turn(
    tasks: Mapping[str, Callable[[], object]], device: str, rounds: int
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Seconds of each task in every round; on a GPU, which is waited for, after one round that is not counted.

    Returns:
        Wall seconds, and seconds of processor time of this process, which other work on the machine hardly changes.
    """
    walls: dict[str, list[float]] = {name: [] for name in tasks}
    busy: dict[str, list[float]] = {name: [] for name in tasks}
    first = 1 if device == "cuda" else 0
    for _ in range(first + rounds):
        for name, task in tasks.items():
            start, began = time.perf_counter(), time.process_time()
            task()
            if device == "cuda":
                torch.cuda.synchronize()
            busy[name].append(time.process_time() - began)
            walls[name].append(time.perf_counter() - start)
    kept = ({name: Timing(tuple(seconds[first:])) for name, seconds in kind.items()} for kind in (walls, busy))
    wall_times, busy_times = kept
    return wall_times, busy_times


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward()
    del out
    return sum(storages.values())


class Forms:
    """The model on the same inputs, deduplicated and expanded."""

    def __init__(self, model: DedupTransformer, given: Inputs) -> None:
        self.model, self.given = model, given

    def deduplicated(self) -> Tensor:
        """(B, W)."""
        given = self.given
        out: Tensor = self.model(given.candidates, self.model.encode(given.tokens, given.offsets), given.inverse)
        return out

    def expanded(self) -> Tensor:
        """(B, W)."""
        given = self.given
        return self.model.expanded(given.tokens, given.offsets, given.candidates, given.inverse)

    def step(self, forward: Callable[[], Tensor]) -> Tensor:
        """Forward and backward of one form; its output."""
        for leaf in (self.given.tokens, self.given.candidates, *self.model.parameters()):
            leaf.grad = None
        out = forward()
        out.float().square().mean().backward()  # type: ignore[no-untyped-call]
        return out.detach()


def train(
    report: Report, model: DedupTransformer, device: str, dtype: torch.dtype, budget: int, rounds: int
) -> Iterator[None]:
    """Rows of the training steps; yields after each size."""
    for length in CONTEXTS:
        for factor in FACTORS:
            given = Inputs(factor, length, budget, device, dtype)
            forms = Forms(model, given)
            both = {"ours": forms.deduplicated, "theirs": forms.expanded}
            apart = (forms.step(forms.deduplicated) - forms.step(forms.expanded)).abs().max().item()
            kept = {name: kept_bytes(forward) for name, forward in both.items()}
            tasks = {name: partial(forms.step, forward) for name, forward in both.items()}
            taken, busy = in_turn(tasks, device, rounds)
            requests = len(given.offsets) - 1
            name = f"{device}: B/R {factor}, context {length:,}, {requests} requests"
            report.add(f"{name}: step", taken["ours"].median * 1e3, "ms", baseline=taken["theirs"].median * 1e3)
            target = 3 if (factor, length) == (20, 512) else None
            report.speedup(f"{name}: step, times faster", taken["ours"], taken["theirs"], target)
            if device == "cpu":
                report.add(
                    f"{name}: step, processor time", busy["ours"].median * 1e3, "ms",
                    baseline=busy["theirs"].median * 1e3,
                )  # fmt: skip
                report.speedup(f"{name}: step, less processor time", busy["ours"], busy["theirs"])
            report.add(f"{name}: largest difference of outputs", apart, "")
            report.add(f"{name}: kept for the backward pass", kept["ours"] / 1e6, "MB", baseline=kept["theirs"] / 1e6)
            held = model.encode(given.tokens, given.offsets).num_bytes
            # Of R contexts, and of B copies with their candidates.
            each = 2 * LAYERS * WIDTH * given.tokens.element_size()
            copies = len(given.inverse) * (length + 1) * each
            report.add(
                f"{name}: keys and values", held / 1e6, "MB", baseline=copies / 1e6,
                target=f"{requests} contexts", holds=held == requests * length * each,
            )  # fmt: skip
            yield


class Scoring:
    """Candidates of a few known users, scored three ways."""

    def __init__(self, model: DedupTransformer, length: int, device: str, dtype: torch.dtype, users: int) -> None:
        random = torch.Generator().manual_seed(1)
        self.model, self.length, self.device = model, length, device
        self.tokens = torch.randn(users * length, WIDTH, generator=random).to(device, dtype)
        self.candidates = torch.randn(users * CANDIDATES, WIDTH, generator=random).to(device, dtype)
        self.inverse = torch.repeat_interleave(torch.arange(users, device=device), CANDIDATES)
        self.offsets = torch.arange(users + 1, device=device) * length
        self.cache = ContextCache(1 << 30)
        self.keys = [ContextKey(user, bytes([user]), "1") for user in range(users)]

    def _encode(self, places: list[int]) -> EncodedContexts:
        rows = torch.cat([self.tokens[p * self.length : (p + 1) * self.length] for p in places])
        return self.model.encode(rows, torch.arange(len(places) + 1, device=self.device) * self.length)

    @torch.no_grad()
    def cached(self) -> Tensor:
        """Contexts from the cache."""
        found: Tensor = self.model(self.candidates, self.cache.contexts(self.keys, self._encode), self.inverse)
        return found

    @torch.no_grad()
    def encoded(self) -> Tensor:
        """Contexts encoded once for each request, at every call."""
        found: Tensor = self.model(self.candidates, self.model.encode(self.tokens, self.offsets), self.inverse)
        return found

    @torch.no_grad()
    def expanded(self) -> Tensor:
        """Every candidate behind a copy of its context, a request at a time so that it fits into memory."""
        parts = []
        for user in range(len(self.keys)):
            rows = slice(user * CANDIDATES, (user + 1) * CANDIDATES)
            tokens = self.tokens[user * self.length : (user + 1) * self.length]
            offsets, inverse = self.offsets[:2], torch.zeros_like(self.inverse[rows])
            parts.append(self.model.expanded(tokens, offsets, self.candidates[rows], inverse))
        return torch.cat(parts)


def score(report: Report, model: DedupTransformer, device: str, dtype: torch.dtype, rounds: int) -> Iterator[None]:
    """Rows of scoring 500 candidates a request; yields after each size."""
    for length in CONTEXTS:
        fitting = USERS if device == "cuda" else max(1, SCORED_TOKENS // (CANDIDATES * length))
        users = min(USERS, fitting)
        scoring = Scoring(model, length, device, dtype, users)
        apart = (scoring.cached() - scoring.encoded()).abs().max().item()
        calls, _ = in_turn({"cached": scoring.cached, "encoded": scoring.encoded}, device, 3 * rounds)
        pair, busy = in_turn({"cached": scoring.cached, "expanded": scoring.expanded}, device, rounds)
        name = f"{device}: {CANDIDATES} candidates of {users} users, context {length:,}"
        report.add(
            f"{name}: with the cache", calls["cached"].median * 1e3, "ms", baseline=pair["expanded"].median * 1e3
        )
        report.speedup(f"{name}: times faster than expanded", pair["cached"], pair["expanded"], 7)
        if device == "cpu":
            report.speedup(f"{name}: less processor time than expanded", busy["cached"], busy["expanded"])
        report.speedup(f"{name}: times faster than encoding at each call", calls["cached"], calls["encoded"])
        held = scoring.cache.statistics
        report.add(f"{name}: largest difference of scores", apart, "")
        report.add(f"{name}: hit rate", held.hit_rate, "")
        report.add(f"{name}: bytes to read for a request", held.num_bytes / held.contexts / 1e3, "kB")
        yield


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--device", choices=("cpu", "cuda", "all"), default="all")
    chosen, rest = own.parse_known_args(argv)
    arguments = parse(str(__doc__).splitlines()[0], rest)
    report = Report("attention", arguments.scale)
    torch.manual_seed(0)
    devices = [] if chosen.device == "cuda" else [("cpu", torch.float32)]
    if torch.cuda.is_available() and chosen.device != "cpu":
        report.data["device"] = torch.cuda.get_device_name()
        devices.append(("cuda", torch.bfloat16))
    elif chosen.device == "cuda":
        print("attention: not run, since torch finds no CUDA device on this machine")
        return
    else:
        report.data["device"] = "no CUDA device was measured, only the CPU"
    report.data["threads"] = torch.get_num_threads()
    for device, dtype in devices:
        model = DedupTransformer(WIDTH, heads=HEADS, layers=LAYERS).to(device, dtype)
        budget = EXPANDED_TOKENS[arguments.scale] * (10 if device == "cuda" else 1)
        for _ in train(report, model, device, dtype, budget, arguments.rounds):
            report.save(arguments.json)
        for _ in score(report, model, device, dtype, arguments.rounds):
            report.save(arguments.json)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
