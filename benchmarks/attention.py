"""Steps and scoring of a transformer over contexts: deduplicated against the same model on expanded rows.

A step encodes R contexts, lets B candidates read them and goes backward; the expanded form puts each candidate behind a
copy of its context and runs every layer over all of it, which gives the same outputs and gradients. Scoring puts
candidates of known users through the model with a cache of encoded contexts and without one. On a GPU, where one is
there, the same in bfloat16.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, parse
from dedup_storage.training.context_cache import ContextCache, ContextKey
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts

WIDTH, HEADS, LAYERS = 64, 4, 2
FACTORS, CONTEXTS = (5, 20, 100), (128, 512, 2048)
# Requests of a step, so that the expanded form fits into memory and a step takes no more than seconds.
EXPANDED_TOKENS = {"small": 40_000, "full": 200_000}
CANDIDATES = 500


class Inputs:
    """R contexts of one length and their candidates, on a device."""

    def __init__(self, factor: int, length: int, budget: int, device: str, dtype: torch.dtype) -> None:
        random = torch.Generator().manual_seed(0)
        requests = max(1, budget // (factor * length))
        self.tokens = torch.randn(requests * length, WIDTH, generator=random).to(device, dtype).requires_grad_()
        self.candidates = torch.randn(requests * factor, WIDTH, generator=random).to(device, dtype).requires_grad_()
        self.offsets = torch.arange(requests + 1, device=device) * length
        self.inverse = torch.repeat_interleave(torch.arange(requests, device=device), factor)


def measure(step: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Wall seconds of a step, the device waited for, after two that are not counted."""
    found = []
    for number in range(rounds + 2):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            found.append(time.perf_counter() - start)
    return found


def steps(model: DedupTransformer, given: Inputs) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The deduplicated and the expanded step."""

    def backward(out: Tensor) -> Tensor:
        for leaf in (given.tokens, given.candidates, *model.parameters()):
            leaf.grad = None
        out.float().square().mean().backward()  # type: ignore[no-untyped-call]
        return out.detach()

    def deduplicated() -> Tensor:
        return backward(model(given.candidates, model.encode(given.tokens, given.offsets), given.inverse))

    def expanded() -> Tensor:
        return backward(model.expanded(given.tokens, given.offsets, given.candidates, given.inverse))

    return deduplicated, expanded


def train(report: Report, model: DedupTransformer, device: str, dtype: torch.dtype, budget: int, rounds: int) -> None:
    """Rows of the training steps."""
    for length in CONTEXTS:
        for factor in FACTORS:
            given = Inputs(factor, length, budget, device, dtype)
            ours, theirs = steps(model, given)
            apart = (ours() - theirs()).abs().max().item()
            few, many = measure(ours, device, rounds), measure(theirs, device, rounds)
            ratio = statistics.median(many) / statistics.median(few)
            name = f"{device}: B/R {factor}, context {length:,}"
            target = 3 if (factor, length) == (20, 512) else None
            report.add(f"{name}: step", statistics.median(few) * 1e3, "ms", baseline=statistics.median(many) * 1e3)
            report.add(
                f"{name}: step, times faster", ratio, "x", target=f">= {target}" if target else None,
                holds=ratio >= target if target else None,
            )  # fmt: skip
            report.add(f"{name}: largest difference of outputs", apart, "")
            contexts = model.encode(given.tokens, given.offsets)
            report.add(
                f"{name}: keys and values of a request", contexts.num_bytes / (len(given.offsets) - 1) / 1e3, "kB"
            )


class Scoring:
    """Candidates of a few known users, scored three ways."""

    def __init__(self, model: DedupTransformer, length: int, device: str, dtype: torch.dtype, users: int = 4) -> None:
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


def score(report: Report, model: DedupTransformer, device: str, dtype: torch.dtype, rounds: int) -> None:
    """Rows of scoring 500 candidates a request."""
    for length in CONTEXTS:
        scoring = Scoring(model, length, device, dtype)
        apart = (scoring.cached() - scoring.encoded()).abs().max().item()
        few, again = measure(scoring.cached, device, rounds), measure(scoring.encoded, device, rounds)
        many = measure(scoring.expanded, device, 1) if length * CANDIDATES <= 300_000 or device == "cuda" else []
        name = f"{device}: {CANDIDATES} candidates, context {length:,}"
        report.add(
            f"{name}: with the cache", statistics.median(few) * 1e3, "ms", baseline=statistics.median(again) * 1e3
        )
        report.add(
            f"{name}: times faster than encoding at each call", statistics.median(again) / statistics.median(few), "x"
        )
        if many:
            ratio = many[0] / statistics.median(few)
            report.add(f"{name}: times faster than expanded", ratio, "x", target=">= 7", holds=ratio >= 7)
        held = scoring.cache.statistics
        report.add(f"{name}: largest difference of scores", apart, "")
        report.add(f"{name}: hit rate", held.hit_rate, "")
        report.add(f"{name}: bytes to read for a request", held.num_bytes / held.contexts / 1e3, "kB")


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse(str(__doc__).splitlines()[0], argv)
    report = Report("attention", arguments.scale)
    torch.manual_seed(0)
    devices = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        report.data["device"] = torch.cuda.get_device_name()
        devices.append(("cuda", torch.bfloat16))
    else:
        report.data["device"] = "no CUDA device: only the CPU was measured"
    for device, dtype in devices:
        model = DedupTransformer(WIDTH, heads=HEADS, layers=LAYERS).to(device, dtype)
        budget = EXPANDED_TOKENS[arguments.scale] * (10 if device == "cuda" else 1)
        train(report, model, device, dtype, budget, 3 * arguments.rounds)
        score(report, model, device, dtype, 3 * arguments.rounds)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
