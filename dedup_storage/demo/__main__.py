"""``make demo``: a year of shop baskets from the raw log to PyTorch batches, and what two layouts save at each step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.runtime import Job, job, local_spark
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.demo.complete_journey import LogSummary, log_schema, write_log
from dedup_storage.demo.epoch import EpochCounts, EpochOptions, read_epoch
from dedup_storage.errors import StorageError
from dedup_storage.lake.engine.status import Shuffled, counted_shuffles
from dedup_storage.layout import Layout
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.model import UserLists
from dedup_storage.report.parquet.dataset_files import dataset_files, input_files
from dedup_storage.report.show.summary import Summary, summarize, summary_table
from dedup_storage.sources.raw import RawLog
from dedup_storage.words import human_bytes

__all__ = ["main"]

SPLIT, USER = "complete_journey", "complete_journey_user"
# A batch holds up to so many baskets of a household that follow one another, and each of their events once.
SHARED: EpochOptions = {"histories": "shared", "together": 8, "across_dates": True}
# Start and length of a run, as 64-bit numbers.
_RUN_BYTES = 16


@job
def demo(
    job: Job,
    share: Annotated[float, typer.Option(help="Share of the households, more than 0, at most 1.")] = 0.1,
    full: Annotated[bool, typer.Option("--full", help="All 1.47 million rows.")] = False,
    max_length: Annotated[int, typer.Option(min=1, help="Most events a history keeps: the newest.")] = 512,
    directory: Annotated[Path, typer.Option(help="Where the log and the datasets go; replaced.")] = Path("out/demo"),
    batch_size: Annotated[int, typer.Option(min=1, help="Impressions of a batch.")] = 4096,
    workers: Annotated[int, typer.Option(min=0, help="DataLoader workers.")] = 0,
) -> None:
    """Baskets of the Complete Journey: raw log, dataset in two layouts, compression summary, PyTorch batches."""
    began = time.monotonic()
    raw = directory / "raw"
    settings = job.settings.model_copy(update={"warehouse": str(directory / "warehouse")})
    for old in (raw, directory / "warehouse"):
        shutil.rmtree(old, ignore_errors=True)

    with job.step("1. Laying down the flat log in arrival order"):
        log = write_log(raw, share=1.0 if full else share, max_length=max_length)
    stdout.print(
        f"   {log.impressions:,} rows: the products of {log.requests:,} baskets of {log.users:,} households; each row "
        f"repeats its household's history, {log.events / log.impressions:,.0f} events on average.\n"
        f"   Dedup factor B / R {log.impressions / log.requests:.1f}; {log.files} Parquet files, "
        f"{human_bytes(log.stored_bytes)}."
    )
    writes = _write(job, settings, raw, max_length)
    with job.step("4. Reading the footers of the log and of the datasets"):
        flat = input_files(str(raw))
        stored = {name: summarize(dataset_files(settings, name), flat) for name in writes}
        lists = measure_dataset(dataset_files(settings, USER), baselines=()).user_lists
    for name, summary in stored.items():
        stdout.print(summary_table(summary, f"Stored bytes: the flat log against {name}"))
    epochs = {}
    with job.step("5. Reading an epoch of each through torch's DataLoader"):
        for name, options in ((SPLIT, EpochOptions()), (USER, SHARED)):
            epochs[name] = read_epoch(settings, name, batch_size=batch_size, workers=workers, **options)
    for name, epoch in epochs.items():
        stdout.print(
            f"   {name}: {epoch.batches:,} batches, {epoch.impressions:,} impressions of {epoch.requests:,} requests "
            f"in {epoch.seconds:.1f} s: {epoch.impressions / epoch.seconds:,.0f} impressions a second."
        )
        _require_log(name, log, epoch, epochs[SPLIT])
    _show_savings(log, stored, lists, epochs)
    moved = writes[SPLIT][1]
    stdout.print(
        "Layout user holds each event of a household once, and of each basket where its history stands; what an epoch "
        "decodes of it is computed: each event once. Its batches hold up to "
        f"{SHARED['together']} baskets of a household together. To write {SPLIT} Spark shuffled "
        f"{human_bytes(moved.stored_bytes)} in {moved.rows:,} records (keys, impressions, each history once); the flat "
        f"rows are {human_bytes(epochs[SPLIT].flat_decoded_bytes)} decoded."
    )
    stdout.print(f"The datasets lie in {directory / 'warehouse'}. {time.monotonic() - began:.0f} s in all.")
    job.write_json(
        {
            "log": log.model_dump(mode="json"),
            "datasets": {
                name: {
                    "write": written.model_dump(mode="json"),
                    "stored": {"flat_bytes": stored[name].flat_bytes, "dataset_bytes": stored[name].dataset_bytes},
                    "shuffled": asdict(shuffles),
                    "epoch": asdict(epochs[name]),
                }
                for name, (written, shuffles) in writes.items()
            },
        }
    )


def _write(job: Job, settings: Settings, raw: Path, max_length: int) -> dict[str, tuple[WriteSummary, Shuffled]]:
    """Both datasets, by one session."""
    steps = {
        SPLIT: (Layout.SPLIT, "2. Writing the dataset: collapse, audit, publish"),
        USER: (Layout.USER, "3. Writing it in layout user: each event of a household once"),
    }
    found = {}
    with local_spark(settings, debug=job.debug) as spark:
        described = log_schema(max_length)
        source = RawLog.read(spark, str(raw), schema=described)
        for name, (layout, title) in steps.items():
            with job.step(title, spark):
                dataset = Dataset.create(spark, settings, name, described, source, layout=layout)
                with counted_shuffles(spark) as shuffles:
                    summary = dataset.write(source)
                found[name] = summary, shuffles
            parts = ", ".join(f"{t.rows:,} rows of {t.table} in {t.files} files" for t in summary.tables)
            times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in summary.seconds.items())
            stdout.print(f"   {parts}; quality gate {summary.gate}.\n   {times}.")
    return found


def _require_log(name: str, log: LogSummary, epoch: EpochCounts, first: EpochCounts) -> None:
    """Refuse an epoch that is not the log."""
    if (epoch.requests, epoch.impressions, epoch.list_elements) != (
        log.requests,
        log.impressions,
        first.list_elements,
    ):
        raise StorageError(
            f"the epoch of {name} is not the log",
            expected=f"{log.requests} requests with {first.list_elements} elements, {log.impressions} impressions",
            got=f"{epoch.requests} requests with {epoch.list_elements} elements, {epoch.impressions} impressions",
        )


def _show_savings(
    log: LogSummary, stored: Mapping[str, Summary], lists: Sequence[UserLists], epochs: Mapping[str, EpochCounts]
) -> None:
    """The last word: what the flat log costs at each step, and what it costs in both layouts."""
    split, user = epochs[SPLIT], epochs[USER]
    columns = sum(len(group.columns) for group in lists)
    events, runs = sum(group.events for group in lists), sum(group.runs for group in lists)
    # Each event is decoded once in an epoch over all dates; what is no list, as in split layout.
    elements = sum(len(group.columns) * group.events for group in lists)
    once = elements * split.list_bytes / split.list_elements + _RUN_BYTES * runs
    rows = [
        ("history events", log.events, split.list_elements // columns, events, "{:,}".format),
        ("stored", stored[SPLIT].flat_bytes, stored[SPLIT].dataset_bytes, stored[USER].dataset_bytes, human_bytes),
        ("decoded in an epoch", split.flat_decoded_bytes, split.decoded_bytes,
         split.decoded_bytes - split.list_bytes + once, human_bytes),
        ("moved to the device", split.flat_device_bytes, split.device_bytes, user.device_bytes, human_bytes),
    ]  # fmt: skip
    show_table(
        "What was saved",
        ("", "flat", "split", "smaller by", "user", "smaller by"),
        [
            (what, told(flat), told(one), f"{flat / one:.1f}x", told(other), f"{flat / other:.1f}x")
            for what, flat, one, other, told in rows
        ],
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)


def main() -> None:
    """Run the demonstration with the process's arguments."""
    app(prog_name="python -m dedup_storage.demo")


if __name__ == "__main__":
    main()
