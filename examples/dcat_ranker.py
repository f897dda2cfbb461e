"""A ranker whose candidates attend to their request's history (as DCAT does), trained deduplicated and expanded.

python examples/dcat_ranker.py --build complete-journey --above 1     (did they buy more than one of it?)
python examples/dcat_ranker.py --build ebnerd                         (did they click? EBNERD_DIR names the data)
torchrun --nproc_per_node 2 examples/dcat_ranker.py --dataset clicks  (ranks share each step; no expanded form)

From one seed, the model is trained twice on the same batches: once with each context encoded once for its request, once
as an ordinary transformer over a copy of the context for each candidate. Losses and the area under the curve on users
that were kept out are the same; what differs is told: seconds and bytes of a step, of an epoch, and of scoring.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError
from dedup_storage.reader import DedupBatch, DedupDataset, flat_batch
from dedup_storage.training.context_cache import ContextCache, ContextKey, history_digests
from dedup_storage.words import human_bytes
from examples._compare import wait
from examples._data import Columns, Source, build, open_dataset
from examples._dcat import DcatRanker, Inputs, area_under_curve
from examples._run import check_labels

__all__ = ["Run", "train"]


@dataclass
class Run:
    """What a training run did.

    Attributes:
        model: The trained model.
        losses: Of every step.
        step_seconds: Forward, backward and optimizer of every step.
        step_bytes: Bytes of a step's batch, in the form that the model reads.
        epoch_seconds: Of every epoch, the loader's work included.
        processor_seconds: Processor time of every epoch, of all threads of this process: the loader's, too.
        areas: Area under the curve after every epoch.
    """

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    step_bytes: list[int] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)


def train(
    model: DcatRanker,
    batches: DedupDataset,
    held_out: list[DedupBatch],
    columns: Columns,
    *,
    length: int,
    epochs: int,
    steps: int | None = None,
    expanded: bool = False,
    rate: float = 0.05,
) -> Run:
    """Train a model on a dataset.

    Args:
        model: The model.
        batches: What to train on.
        held_out: What to score after each epoch.
        columns: What to read.
        length: Newest events of a history.
        epochs: Passes over ``batches``.
        steps: Most steps of an epoch; ``None`` takes all.
        expanded: Whether to train on flat batches with the ordinary transformer.
        rate: Learning rate.
    """
    run, trained = Run(model), model
    if dist.is_initialized():
        trained = nn.parallel.DistributedDataParallel(_Loss(model))  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    device = next(model.parameters()).device
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        model.train()
        began, busy = time.perf_counter(), time.process_time()
        for batch in islice(DataLoader(batches, batch_size=None), steps):
            start = time.perf_counter()
            read = (flat_batch(batch) if expanded else batch).to(device, non_blocking=True)
            inputs = Inputs.of(read, columns, length)
            optimizer.zero_grad(set_to_none=True)
            loss = trained(inputs) if trained is not model else model.loss(inputs, expanded)
            loss.backward()
            optimizer.step()
            run.losses.append(_mean_over_ranks(loss.detach()))
            run.step_seconds.append(time.perf_counter() - start)
            run.step_bytes.append(read.num_bytes)
        run.epoch_seconds.append(time.perf_counter() - began)
        run.processor_seconds.append(time.process_time() - busy)
        run.areas.append(_area(model, held_out, columns, length, expanded))
    return run


def _mean_over_ranks(loss: torch.Tensor) -> float:
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return float(loss)


class _Loss(nn.Module):
    """A model whose forward is its loss, as DistributedDataParallel wants it."""

    def __init__(self, model: DcatRanker) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.model.loss(inputs)


@torch.no_grad()
def _area(model: DcatRanker, batches: list[DedupBatch], columns: Columns, length: int, expanded: bool) -> float:
    model.eval()
    given = [Inputs.of(flat_batch(b) if expanded else b, columns, length) for b in batches]
    scores = [model(inputs, expanded) for inputs in given]
    return area_under_curve(torch.cat(scores), torch.cat([inputs.labels for inputs in given]))


@torch.no_grad()
def _score(model: DcatRanker, batches: list[DedupBatch], columns: Columns, length: int) -> dict[str, float]:
    """Seconds and bytes of scoring known users with cached contexts, and expanded; and how far the scores differ."""
    model.eval()
    cache = ContextCache(1 << 30)
    pairs = [(Inputs.of(b, columns, length), Inputs.of(flat_batch(b), columns, length)) for b in batches]
    keys = [
        [
            ContextKey(user, digest, "trained")
            for user, digest in zip(
                batch.user_ids().tolist(), history_digests(inputs.offsets, inputs.history.values), strict=True
            )
        ]
        for batch, (inputs, _) in zip(batches, pairs, strict=True)
    ]

    def cached() -> Iterator[torch.Tensor]:
        for (inputs, _), known in zip(pairs, keys, strict=True):
            contexts = cache.contexts(known, lambda places, inputs=inputs: model.encode(inputs.of_requests(places)))
            yield model.score(inputs, contexts)

    device = next(model.parameters()).device
    first = torch.cat(list(cached()))
    wait(device)
    began = time.perf_counter()
    again = torch.cat(list(cached()))
    wait(device)
    between = time.perf_counter()
    ordinary = torch.cat([model(flat, expanded=True) for _, flat in pairs])
    wait(device)
    ended = time.perf_counter()
    tokens = sum(len(flat.history.values) + 2 * len(flat.items) for _, flat in pairs)
    held = cache.statistics
    return {
        "score_seconds": between - began,
        "expanded_score_seconds": ended - between,
        "score_bytes": float(held.num_bytes),
        # Keys and values of all layers, of a copy of the context and of the candidate, for each candidate.
        "expanded_score_bytes": float(held.num_bytes / max(_tokens(pairs), 1) * tokens),
        "score_difference": float(torch.stack([(first - ordinary).abs(), (again - ordinary).abs()]).max()),
    }


def _tokens(pairs: list[tuple[Inputs, Inputs]]) -> int:
    """Tokens of the contexts, summaries among them."""
    return sum(len(inputs.history.values) + len(inputs.counts) for inputs, _ in pairs)


def _show(title: str, ours: Run, theirs: Run, scoring: dict[str, float]) -> dict[str, Any]:
    """Print what both forms cost, as a table; the differences as JSON values."""
    costs = {
        "step, seconds": [statistics.median(r.step_seconds) for r in (theirs, ours)],
        "batch of a step": [statistics.fmean(r.step_bytes) for r in (theirs, ours)],
        "epoch with the loader, seconds": [statistics.median(r.epoch_seconds) for r in (theirs, ours)],
        "the same, processor seconds": [statistics.median(r.processor_seconds) for r in (theirs, ours)],
        "scoring users that are known, seconds": [scoring["expanded_score_seconds"], scoring["score_seconds"]],
        "keys and values for scoring": [scoring["expanded_score_bytes"], scoring["score_bytes"]],
    }
    rows = []
    for name, (many, few) in costs.items():
        texts = [f"{v:.3f}" if name.endswith("seconds") else human_bytes(v) for v in (many, few)]
        rows.append((name, *texts, f"{many / few:.1f}x"))
    show_table(title, ("", "expanded (B rows)", "deduplicated (R rows)", "less by"), rows)
    gap = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    stdout.print(
        f"Greatest difference of {len(ours.losses)} losses {gap:.1e}, of scores {scoring['score_difference']:.1e}; "
        f"area under the curve {ours.areas[-1]:.6f} and {theirs.areas[-1]:.6f}"
    )
    return {"loss_difference": gap, "expanded_area": theirs.areas[-1], **scoring}


@job
def example(
    job: Job,
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset; by default the log's of --build.")] = None,
    source: Annotated[Source | None, typer.Option("--build", help="Public log to build it from, once.")] = None,
    share: Annotated[float, typer.Option(help="Share of Complete Journey's households to build from.")] = 0.02,
    directory: Annotated[Path, typer.Option(help="Where --build puts the raw log.")] = Path("out/examples"),
    history: Annotated[str | None, typer.Option(help="List of earlier items; by default the first list.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column; by default the first.")] = None,
    above: Annotated[float, typer.Option(help="An impression is positive when its label exceeds this.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=2, help="Impressions of a batch.")] = 512,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Most steps of an epoch.")] = None,
    width: Annotated[int, typer.Option(min=4, help="Width of all vectors, a multiple of 4.")] = 32,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the transformer.")] = 2,
    length: Annotated[int, typer.Option(min=1, help="Newest events of a history.")] = 64,
    double: Annotated[bool, typer.Option(help="Compute in float64, to see that only rounding differs.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the model and of the order.")] = 0,
) -> None:
    name = dataset if dataset is not None else source.replace("-", "_") if source is not None else None
    if name is None:
        raise UsageError("there is no dataset to train on", fix="Give --dataset, or --build to make one.")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if source is not None and ranks == 1:
        build(job, source, name, directory, share)
    if ranks > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    options: dict[str, Any] = {"history": history, "label": label, "threshold": above, "batch_size": batch_size}
    buckets = DedupDataset(name, job.settings).plan.spec.buckets
    kept_in = {"buckets": list(range(max(buckets - 1, 1)))}
    # Every rank has equally many steps; a batch that were repeated would count twice.
    batches, columns = open_dataset(name, job.settings, seed=seed, filters=kept_in, ends="drop", **options)
    out, _ = open_dataset(
        name, job.settings, filters={"buckets": [buckets - 1]}, shuffle=False, rank=0, world_size=1, **options
    )
    held_out = [batch.to(device) for batch in islice(out, steps)]
    check_labels(columns, held_out, negatives=True)

    def trained(expanded: bool) -> Run:
        torch.manual_seed(seed)
        model = DcatRanker(width, layers, length).to(device)
        return train(model, batches, held_out, columns, length=length, epochs=epochs, steps=steps, expanded=expanded)

    with job.step("Training deduplicated"):
        ours = trained(False)
    summary: dict[str, Any] = {
        "losses": ours.losses,
        "areas": ours.areas,
        "ranks": ranks,
        "seconds": ours.epoch_seconds,
        "processor_seconds": ours.processor_seconds,
    }
    if ranks == 1:
        with job.step("Training expanded"):
            theirs = trained(True)
        scoring = _score(ours.model, held_out, columns, length)  # type: ignore[arg-type]
        title = f"DCAT ranker on {name}, {columns.history} up to {length}, {device.type}"
        summary |= _show(title, ours, theirs, scoring)
        summary["expanded_losses"], summary["expanded_seconds"] = theirs.losses, theirs.epoch_seconds
        summary["expanded_areas"], summary["expanded_processor_seconds"] = theirs.areas, theirs.processor_seconds
    elif dist.get_rank() == 0:
        stdout.print(
            f"{len(ours.losses)} steps on {ranks} ranks, last loss {ours.losses[-1]:.4f}, {ours.areas[-1]:.4f}"
        )
    if ranks > 1:
        dist.destroy_process_group()
    if local == 0:
        job.write_json(summary)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help="DCAT ranker")(example)
    app()
