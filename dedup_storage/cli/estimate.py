"""``dedup-storage estimate``: what would a flat log save as a dataset?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dedup_storage.cli.arrow_alone import arrow_alone
from dedup_storage.cli.drawing import (
    SAMPLE_MIB,
    SampleOption,
    ScratchOption,
    ShareOption,
    SparkOption,
    drawing,
    refuse_idle_draw,
    scratch_folder,
)
from dedup_storage.cli.options import LogFormat, refuse_idle
from dedup_storage.cli.output import stdout
from dedup_storage.cli.progress import file_progress
from dedup_storage.cli.runtime import Job, job

__all__ = ["estimate"]

_PRECISION = 0.08


@job
def estimate(
    job: Job,
    source: Annotated[str, typer.Argument(help="The flat log, as for write.")],
    schema: Annotated[Path, typer.Option("--schema", help="Log schema (YAML).")],
    share: ShareOption = None,
    sample_mib: SampleOption = SAMPLE_MIB,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    precision: Annotated[
        float, typer.Option(min=0.03, help="Half width of the intervals to aim at, with up to 8 times the sample.")
    ] = _PRECISION,
    buckets: Annotated[int | None, typer.Option(min=1, help="Segments to assume; proposed by default.")] = None,
    format: Annotated[LogFormat | None, typer.Option(help="Format; told by the file's name if left out.")] = None,
    spark: SparkOption = False,
    scratch: ScratchOption = None,
) -> None:
    """Estimate the bytes a flat log would need in each layout, from a sample of whole users; nothing is written."""
    from dedup_storage.report.estimate.savings import estimate_savings
    from dedup_storage.report.show.savings import savings_text
    from dedup_storage.schema import LogSchema
    from dedup_storage.sources.forms.flat import flat_source, is_made_plain
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    refuse_idle_draw(share, sample_mib, spark=spark, scratch=scratch)
    if share is not None:
        refuse_idle({"--precision": precision != _PRECISION}, "beside --share, all of which is measured")
    described = LogSchema.from_yaml(schema)
    kind = format.value if format else None
    if spark:
        job.require(source)
    else:
        arrow_alone()
    place = scratch_folder(job, spark, scratch)
    log = open_source(source, format=kind, wanted=wanted_columns(described), settings=job.settings, scratch=place)
    lying = log
    log, described = flat_source(log, described, place)
    with drawing(job, spark, scratch) as draw, file_progress() as progress:
        savings = estimate_savings(
            log.table(), described, share=share, draw_bytes=sample_mib * 1024**2,
            confidence=confidence, precision=precision, files=buckets, on_file=progress.files, on_step=progress.step,
            engine=draw,
        )  # fmt: skip
    lying.require_unchanged()
    if str(job.json) != "-":
        stdout.print(savings_text(savings, made_plain=is_made_plain(log)))
        for note in log.notes:
            stdout.print(note, markup=False)
    job.write_json(savings)
