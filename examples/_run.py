"""What both examples do with their model: train it, then compare a step on deduplicated and on flat batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Protocol

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dedup_storage.cli.output import stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError
from dedup_storage.reader import DedupBatch, DedupDataset
from examples._compare import compare
from examples._data import Columns, Source, build, open_dataset

__all__ = ["Example", "check_labels", "run", "train"]


class Example(Protocol):
    """A model that knows its loss."""

    def loss(self, batch: DedupBatch) -> Tensor:
        """Loss of a batch on the model's device: R request rows and B impressions, or flat with R = B."""


Make = Callable[[Columns, int, int], nn.Module]


def train(model: nn.Module, dataset: DedupDataset, *, epochs: int, workers: int, device: torch.device) -> list[float]:
    """Mean loss of each epoch."""
    # Workers must not be forked from a process that started Spark's Java gateway threads.
    context = "spawn" if workers else None
    cuda = device.type == "cuda"
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, pin_memory=cuda)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    means = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        losses = []
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(batch.to(device, non_blocking=True))  # type: ignore[operator]
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        means.append(float(torch.stack(losses).mean()))
        stdout.print(f"epoch {epoch}: {len(losses)} steps, mean loss {means[-1]:.4f}")
    return means


def check_labels(columns: Columns, batches: Sequence[DedupBatch], negatives: bool) -> None:
    """Refuse a label that gives nothing to learn from.

    Raises:
        UsageError: no impression is a positive, or all are and ``negatives`` are needed.
    """
    positives = torch.cat([columns.positives(batch) for batch in batches])
    if not positives.any() or (negatives and positives.all()):
        raise UsageError(
            f"{'every' if positives.any() else 'no'} impression is a positive by the label {columns.label}",
            expected="both kinds" if negatives else "some positives",
            fix="Choose --label and --above.",
        )


def run(make: Make, title: str, *, negatives: bool = False) -> None:
    """The command line of an example.

    Args:
        make: (columns, width, newest events) -> an ``Example`` module.
        title: For the table.
        negatives: Whether the model learns nothing where every impression is a positive.
    """

    @job
    def example(
        job: Job,
        dataset: Annotated[
            str | None, typer.Option(help="Name of the dataset; by default the log's of --build.")
        ] = None,
        source: Annotated[
            Source | None, typer.Option("--build", help="Public log to build the dataset from, once.")
        ] = None,
        share: Annotated[float, typer.Option(help="Share of Complete Journey's households to build from.")] = 0.02,
        directory: Annotated[Path, typer.Option(help="Where --build puts the raw log.")] = Path("out/examples"),
        history: Annotated[str | None, typer.Option(help="List of earlier items; by default the first list.")] = None,
        label: Annotated[str | None, typer.Option(help="Label column; by default the first.")] = None,
        above: Annotated[float, typer.Option(help="An impression is positive when its label exceeds this.")] = 0.0,
        batch_size: Annotated[int, typer.Option(min=2, help="Impressions of a batch.")] = 1024,
        epochs: Annotated[int, typer.Option(min=0, help="Epochs to train.")] = 1,
        workers: Annotated[int, typer.Option(min=0, help="DataLoader workers.")] = 0,
        width: Annotated[int, typer.Option(min=4, help="Width of all vectors, a multiple of 4.")] = 32,
        length: Annotated[int, typer.Option(min=1, help="Newest events that the user tower sees.")] = 64,
        compared: Annotated[int, typer.Option(min=1, help="Batches to compare both ways.")] = 4,
        rounds: Annotated[int, typer.Option(min=1, help="Steps of each kind and batch.")] = 3,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the model and of the order.")] = 0,
    ) -> None:
        name = dataset if dataset is not None else source.replace("-", "_") if source is not None else None
        if name is None:
            raise UsageError("there is no dataset to train on", fix="Give --dataset, or --build to make one.")
        if source is not None:
            build(job, source, name, directory, share)
        torch.manual_seed(seed)
        batches, columns = open_dataset(
            name, job.settings, history=history, label=label, threshold=above, batch_size=batch_size, seed=seed
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = make(columns, width, length).to(device)
        first = list(islice(batches, compared))
        check_labels(columns, first, negatives)
        with job.step("Training"):
            losses = train(model, batches, epochs=epochs, workers=workers, device=device)
        with job.step("Comparing a step on deduplicated and on flat batches"):
            found = compare(model, model.loss, first, device, rounds)  # type: ignore[arg-type]
        found.show(f"{title} on {name}, {columns.history} up to {length}, {device.type}")
        job.write_json({"losses": losses, **found.values()})

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=title)(example)
    app()
