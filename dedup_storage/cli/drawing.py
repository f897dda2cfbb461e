"""Options of jobs that sample users, and who draws the sample: this process, or Spark where the log is large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.options import refuse_idle
from dedup_storage.cli.runtime import Job

if TYPE_CHECKING:
    from dedup_storage.report.draw.select import DrawEngine

__all__ = [
    "SAMPLE_MIB", "SampleOption", "ScratchOption", "ShareOption", "SparkOption", "drawing", "refuse_idle_draw",
    "scratch_folder",
]  # fmt: skip

SAMPLE_MIB = 512

SampleOption = Annotated[int, typer.Option(min=1, help="Size of the sample as flat rows in memory, in MiB.")]
ShareOption = Annotated[float | None, typer.Option(help="Share of the users to sample, instead of a size.")]
SparkOption = Annotated[
    bool,
    typer.Option(
        "--spark",
        help="Let Spark draw the sample from plain Parquet, however large. A log of texts, with forms, or with a row "
        "for each request is made plain flat Parquet in this process first, all of it: write those into a dataset.",
    ),
]
ScratchOption = Annotated[
    str | None,
    typer.Option(
        help="With --spark: folder for the rows that it draws, and for those that are made plain Parquet before; "
        "removed at the end, by default inside the warehouse."
    ),
]


def refuse_idle_draw(share: float | None, sample_mib: int, *, spark: bool = False, scratch: str | None = None) -> None:
    """Refuse options of a sample that others make idle.

    Raises:
        UsageError: names them.
    """
    if share is not None:
        refuse_idle({"--sample-mib": sample_mib != SAMPLE_MIB}, "beside --share, which tells how much is read")
    if not spark:
        refuse_idle({"--scratch": scratch is not None}, "without --spark")


def scratch_folder(job: Job, by_spark: bool, scratch: str | None) -> str | None:
    """Where rows are made plain Parquet: where Spark's processes reach them, else this machine's temporary folder."""
    return (scratch or job.shared_folder) if by_spark else None


@contextmanager
def drawing(job: Job, by_spark: bool, scratch: str | None) -> Iterator[DrawEngine | None]:
    """What draws the sample: ``None`` reads the files in this process."""
    if not by_spark:
        yield None
        return
    from dedup_storage.sources.user_draw import SparkDraw

    with job.spark() as spark, SparkDraw(spark, scratch or job.shared_folder) as draw:
        yield draw
