"""Host-to-device bytes and step time on a GPU: deduplicated batches against the same batches expanded.

A step moves a batch to the device, embeds the history (a sum over its tokens) with the user id, scores every
impression's item and goes backward. Deduplicated, the user side runs on R rows and is gathered to B; expanded, its
inputs are repeated to B rows on the host, as a flat log delivers them. Without CUDA it says so in one line.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, parse
from dedup_storage.reader import DedupBatch
from dedup_storage.reader.batch import Progress
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.window import encode_window

REQUESTS, TOKENS, FACTORS, WIDTH, VOCABULARY = 82, (1024, 4096), (1, 20, 50), 64, 100_000


class TwoTowers(nn.Module):
    """Score of an item for a user whose history is a bag of items."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(VOCABULARY, WIDTH, mode="sum")
        self.user = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))

    def users(self, values: Tensor, offsets: Tensor) -> Tensor:
        """(rows, WIDTH) from the histories of rows."""
        states: Tensor = self.user(self.items(values, offsets[:-1]))
        return states

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """(B,) from users (B, WIDTH) and items (B,)."""
        own: Tensor = self.items(items.unsqueeze(1))
        return (users * own).sum(1)


def batch_of(factor: int, tokens: int) -> DedupBatch:
    """A batch as the reader packs it: R histories, B items and labels."""
    rows = REQUESTS * factor
    random = np.random.default_rng(0)
    history = pa.ListArray.from_arrays(
        np.arange(REQUESTS + 1, dtype=np.int32) * tokens, random.integers(0, VOCABULARY, REQUESTS * tokens)
    )
    requests = pa.table({"user_id": np.arange(REQUESTS), "history": history})
    impressions = pa.table(
        {"item_id": random.integers(0, VOCABULARY, rows), "label": random.random(rows, dtype=np.float32)}
    )
    lengths = np.full(REQUESTS, factor, dtype=np.int64)
    window = encode_window(requests, impressions, lengths, None, Forms())
    packer = BatchPacker("user_id", "item_id", ("label",), ("history",), Forms())
    return packer.pack([Part(window, (0, REQUESTS), (0, rows), lengths)], Progress())


def expanded(batch: DedupBatch) -> dict[str, Tensor]:
    """What a flat loader delivers for the same impressions: every history once for each."""
    history, inverse = batch["history"], batch.inverse_indices
    rows = [history.values[a:b] for a, b in pairwise(history.offsets.tolist())]
    lengths = history.lengths[inverse]
    return {
        "user_id": batch["user_id"].values[inverse],
        "values": torch.cat([rows[r] for r in inverse.tolist()]),
        "offsets": nn.functional.pad(lengths.cumsum(0), (1, 0)),
        "item_id": batch["item_id"].values.clone(),
        "label": batch["label"].values.clone(),
    }


def dedup_step(model: TwoTowers, batch: DedupBatch, device: str) -> Callable[[], Tensor]:
    """Move, forward and backward: the user side on R rows."""

    def step() -> Tensor:
        there = batch.to(device, non_blocking=True)
        history = there["history"]
        if history.offsets is None:
            raise TypeError("the history is no list column")
        users = there.expand(model.users(history.values, history.offsets))
        return _backward(model, users, there["item_id"].values, there["label"].values)

    return step


def flat_step(model: TwoTowers, batch: dict[str, Tensor], device: str) -> Callable[[], Tensor]:
    """The same on B rows."""

    def step() -> Tensor:
        there = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        return _backward(model, model.users(there["values"], there["offsets"]), there["item_id"], there["label"])

    return step


def _backward(model: TwoTowers, users: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(model.score(users, items), labels)
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def seconds(step: Callable[[], object], rounds: int) -> list[float]:
    """Device seconds of a step, by events, after three that are not counted."""
    found = []
    for number in range(rounds + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        if number >= 3:
            found.append(start.elapsed_time(end) / 1e3)
    return found


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse(str(__doc__).splitlines()[0], argv)
    if not torch.cuda.is_available():
        print("reader_gpu: not run, since torch finds no CUDA device on this machine")
        return
    report = Report("reader_gpu", arguments.scale)
    report.data["device"] = torch.cuda.get_device_name()
    model = TwoTowers().cuda()
    for tokens in TOKENS:
        for factor in FACTORS:
            few = batch_of(factor, tokens).pin_memory()
            many = {name: tensor.pin_memory() for name, tensor in expanded(few).items()}
            name = f"B/R {factor}, {tokens:,} tokens"
            flat_bytes = sum(t.numel() * t.element_size() for t in many.values())
            report.add(f"{name}: bytes to the device", few.num_bytes / 1e6, "MB", baseline=flat_bytes / 1e6)
            rounds = 10 * arguments.rounds
            ours = seconds(dedup_step(model, few, "cuda"), rounds)
            base = seconds(flat_step(model, many, "cuda"), rounds)
            report.add(
                f"{name}: step", statistics.median(ours) * 1e3, "ms",
                baseline=statistics.median(base) * 1e3, spread=(min(ours) * 1e3, max(ours) * 1e3),
            )  # fmt: skip
            report.add(f"{name}: step, times faster", statistics.median(base) / statistics.median(ours), "x")
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
