"""``dedup-storage tune``: the Parquet settings that suit a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.drawing import SAMPLE_MIB, SampleOption, ShareOption, refuse_idle_draw
from dedup_storage.cli.options import DatasetOption, VersionOption
from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.progress import file_progress
from dedup_storage.cli.runtime import Job, job

__all__ = ["tune"]


@job
def tune(
    job: Job,
    dataset: DatasetOption,
    version: VersionOption = None,
    share: ShareOption = None,
    sample_mib: SampleOption = SAMPLE_MIB,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How much slower than the fastest decode is accepted.")
    ] = 0.10,
    apply: Annotated[bool, typer.Option("--apply", help="Set the proposed table properties.")] = False,
) -> None:
    """Try encodings on a sample of users, explain the best, and with --apply set the table properties."""
    from dedup_storage.lake.catalogs import open_lake
    from dedup_storage.report.parquet.dataset_files import dataset_files
    from dedup_storage.report.tune.dataset import tune_dataset
    from dedup_storage.report.tune.search import Grid
    from dedup_storage.words import human_bytes

    refuse_idle_draw(share, sample_mib)
    files = dataset_files(job.settings, dataset, version)
    grid = Grid.of_tables(sets_level=open_lake(job.settings).sets_level)
    with file_progress() as progress:
        proposals = tune_dataset(
            files, share=share, draw_bytes=sample_mib * 1024**2, tolerance=tolerance,
            grid=grid, on_file=progress.files, on_step=progress.step,
        )  # fmt: skip
    for p in proposals if str(job.json) != "-" else ():
        stdout.print(
            f"{p.table}: {human_bytes(p.start_bytes)} -> {human_bytes(p.stored_bytes)} on the sample, decode "
            f"{1000 * p.start_decode_seconds:.1f} -> {1000 * p.decode_seconds:.1f} ms; rule: {p.rule}",
            markup=False,
        )
        show_table(
            "",
            ("setting", "why"),
            [*(line.split(": ", 1) for line in p.settings), *((c.column, c.why) for c in p.columns)],
        )
        if p.properties:
            show_table("Properties to change", ("property", "value"), list(p.properties.items()))
    changing = [p.table for p in proposals if p.properties]
    if apply and changing:
        with job.spark() as spark:
            from dedup_storage.report.tune.apply import apply_properties

            for p in proposals:
                apply_properties(spark, job.settings, dataset, p.table, p.properties)
    if not changing:
        job.note("Nothing to change: the settings in use are those that it would choose.")
    elif apply:
        job.note(f"Set on {', '.join(changing)}: files written from now on follow, those that are there stay.")
    else:
        job.note(f"Nothing was changed; --apply sets this on {', '.join(changing)}, for files written from then on.")
    job.write_json({"dataset": dataset, "version": files.version, "applied": apply,
                    "proposals": [p.model_dump(mode="json") for p in proposals]})  # fmt: skip
