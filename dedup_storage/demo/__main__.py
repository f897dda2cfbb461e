"""``make demo``: a year of shop baskets from the raw log to PyTorch batches, and what was saved at each step."""

from __future__ import annotations

import shutil
import time
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
from dedup_storage.demo.epoch import EpochCounts, read_epoch
from dedup_storage.errors import StorageError
from dedup_storage.lake.engine.status import Shuffled, shuffled
from dedup_storage.report.parquet.dataset_files import dataset_files, input_files
from dedup_storage.report.show.summary import Summary, summarize, summary_table
from dedup_storage.sources.raw import RawLog
from dedup_storage.words import human_bytes

__all__ = ["main"]

DATASET = "complete_journey"


@job
def demo(
    job: Job,
    share: Annotated[float, typer.Option(help="Share of the households, more than 0, at most 1.")] = 0.1,
    full: Annotated[bool, typer.Option("--full", help="All 1.47 million rows.")] = False,
    max_length: Annotated[int, typer.Option(min=1, help="Most events a history keeps: the newest.")] = 512,
    directory: Annotated[Path, typer.Option(help="Where the log and the dataset go; replaced.")] = Path("out/demo"),
    batch_size: Annotated[int, typer.Option(min=1, help="Impressions of a batch.")] = 4096,
    workers: Annotated[int, typer.Option(min=0, help="DataLoader workers.")] = 0,
) -> None:
    """Baskets of the Complete Journey: raw log, dataset, compression summary, PyTorch batches."""
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
    written, moved = _write(job, settings, raw, max_length)
    with job.step("3. Reading the footers of the log and of the dataset"):
        stored = summarize(dataset_files(settings, DATASET), input_files(str(raw)))
    stdout.print(summary_table(stored, f"Stored bytes: the flat log against {DATASET}, version {written.version}"))
    with job.step("4. Reading one epoch through torch's DataLoader"):
        epoch = read_epoch(settings, DATASET, batch_size=batch_size, workers=workers)
    stdout.print(
        f"   {epoch.batches:,} batches, {epoch.impressions:,} impressions of {epoch.requests:,} requests in "
        f"{epoch.seconds:.1f} s: {epoch.impressions / epoch.seconds:,.0f} impressions a second."
    )
    if (epoch.requests, epoch.impressions) != (log.requests, log.impressions):
        raise StorageError(
            "the epoch is not the log",
            expected=f"{log.requests} requests, {log.impressions} impressions",
            got=f"{epoch.requests} requests, {epoch.impressions} impressions",
        )
    _show_savings(log, stored, written, moved, epoch)
    stdout.print(f"The dataset lies in {directory / 'warehouse'}. {time.monotonic() - began:.0f} s in all.")
    job.write_json(
        {
            "log": log.model_dump(mode="json"),
            "write": written.model_dump(mode="json"),
            "stored": {"flat_bytes": stored.flat_bytes, "dataset_bytes": stored.dataset_bytes},
            "shuffled": asdict(moved),
            "epoch": asdict(epoch),
        }
    )


def _write(job: Job, settings: Settings, raw: Path, max_length: int) -> tuple[WriteSummary, Shuffled]:
    writing = "2. Writing the dataset: collapse, audit, publish"
    with local_spark(settings, debug=job.debug) as spark, job.step(writing, spark):
        described = log_schema(max_length)
        source = RawLog.read(spark, str(raw), schema=described)
        dataset = Dataset.create(spark, settings, DATASET, described, source)
        before = shuffled(spark)
        summary = dataset.write(source)
        moved = shuffled(spark) - before
    parts = ", ".join(f"{t.rows:,} rows of {t.table} in {t.files} files" for t in summary.tables)
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.seconds.items())
    stdout.print(f"   {parts}; quality gate {summary.gate}.\n   {steps}.")
    return summary, moved


def _show_savings(log: LogSummary, stored: Summary, written: WriteSummary, moved: Shuffled, epoch: EpochCounts) -> None:
    """The last word: what the flat log costs at each step, what the dataset costs."""
    rows = [
        (
            "rows that carry the histories",
            f"{log.impressions:,}",
            f"{written.requests:,}",
            log.impressions,
            log.requests,
        ),
        ("stored", None, None, stored.flat_bytes, stored.dataset_bytes),
        ("decoded in an epoch", None, None, epoch.flat_decoded_bytes, epoch.decoded_bytes),
        ("moved to the device in an epoch", None, None, epoch.flat_device_bytes, epoch.device_bytes),
    ]
    show_table(
        "What was saved",
        ("step", "flat (B rows)", "deduplicated (R rows)", "smaller by"),
        [
            (what, flat or human_bytes(a), ours or human_bytes(b), f"{a / b:.1f}x" if b else "-")
            for what, flat, ours, a, b in rows
        ],
    )
    stdout.print(
        f"To write it Spark shuffled {human_bytes(moved.stored_bytes)} in {moved.rows:,} records (keys, impressions, "
        f"each history once); the flat rows are {human_bytes(epoch.flat_decoded_bytes)} decoded."
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)


def main() -> None:
    """Run the demonstration with the process's arguments."""
    app(prog_name="python -m dedup_storage.demo")


if __name__ == "__main__":
    main()
