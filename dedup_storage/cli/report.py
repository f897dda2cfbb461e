"""``dedup-storage report``: what every column needs, what else it could need, and what a change did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from dedup_storage.cli.options import LogFormat, SchemaOption, VersionOption, refuse_idle
from dedup_storage.cli.output import stdout
from dedup_storage.cli.progress import FileProgress, file_progress
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import StorageError, UsageError

if TYPE_CHECKING:
    from dedup_storage.report.draw.select import DrawEngine
    from dedup_storage.report.model import Report

__all__ = ["InputOption", "report"]

_THRESHOLD = 0.05

InputOption = Annotated[
    str | None,
    typer.Option("--input", help="A flat log instead: Parquet files, a Delta table's folder, or namespace.table."),
]


@job
def report(
    job: Job,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", envvar="DEDUP_STORAGE_DATASET", show_envvar=False, help="Name of the dataset."),
    ] = None,
    input: InputOption = None,
    format: Annotated[
        LogFormat | None, typer.Option(help="Format of --input; told by the file's name if left out.")
    ] = None,
    schema: SchemaOption = None,
    version: VersionOption = None,
    raw: Annotated[str | None, typer.Option(help="Only compare with this flat log, from footers alone.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Report on this column alone; repeatable.")] = None,
    baselines: Annotated[bool, typer.Option(help="Write a sample of users in other layouts.")] = True,
    share: ShareOption = None,
    sample_mib: SampleOption = SAMPLE_MIB,
    sample: Annotated[
        str | None, typer.Option("--sample", help="Measure the users of a named sample of the dataset instead.")
    ] = None,
    spark: SparkOption = False,
    scratch: ScratchOption = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown for a pull request.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Compare with an earlier report's JSON, or with another version's number.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Growth of a row's bytes that ends the job with status 1.")
    ] = _THRESHOLD,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Also print the first batch of so many impressions, as PyTorch gets it.")
    ] = None,
) -> None:
    """Report the stored bytes of a dataset, or of any flat log, column by column, against honest baselines."""
    drawn = {
        "--share": share is not None, "--sample-mib": sample_mib != SAMPLE_MIB, "--sample": sample is not None,
        "--spark": spark, "--scratch": scratch is not None,
    }  # fmt: skip
    compared = {"--against": against is not None, "--threshold": threshold != _THRESHOLD}
    if raw is not None:
        given = {
            "--input": input is not None, "--format": format is not None, "--schema": schema is not None,
            "--column": bool(column), "--no-baselines": not baselines, **drawn, "--html": html is not None,
            "--markdown": markdown is not None, "--batch": batch is not None, **compared,
        }  # fmt: skip
        refuse_idle(given, "beside --raw, which compares stored bytes from footers alone", "--raw")
        _compare_raw(job, dataset, raw, version)
        return
    if not baselines:
        refuse_idle(drawn, "beside --no-baselines, for which no sample is drawn")
    refuse_idle_draw(share, sample_mib, spark=spark, scratch=scratch)
    if sample is not None:
        refuse_idle({"--sample-mib": drawn["--sample-mib"]}, "beside --sample, which names the users")
    if against is None and compared["--threshold"]:
        # A scheduled report names its threshold also where there is no earlier report yet.
        job.note("nothing is compared: --threshold counts beside --against")
    if dataset is not None and input is None:
        of_input = {"--schema": schema is not None, "--format": format is not None}
        refuse_idle(of_input, "beside --dataset, whose versions say what they hold")
    if input is not None and dataset is None:
        refuse_idle({"--version": version is not None}, "beside --input, which has no versions")
        refuse_idle({"--batch": batch is not None}, "beside --input: batches are read from datasets")
    if str(job.json) == "-":
        refuse_idle({"--batch": batch is not None}, "beside --json -, which prints the report alone")
    if batch is not None:
        # Reports need no torch; what lacks it is told before anything is measured, and not after.
        from dedup_storage.reader import DedupDataset  # noqa: F401
    if spark:
        job.require(input)
    else:
        arrow_alone()
    # A file that cannot be read ends the job before anything is measured.
    before = _loaded(dataset, against) if against is not None else None
    with drawing(job, spark, scratch) as draw, file_progress() as progress:
        made = _measure(
            job, dataset, input, schema, version, progress, columns=tuple(column or ()), share=share,
            sample_bytes=sample_mib * 1024**2, baselines=baselines, draw=draw, format=format,
            sample=sample, scratch=scratch_folder(job, spark, scratch),
        )  # fmt: skip
        if against is not None and before is None:
            before = _measure(job, dataset, None, None, int(against), progress)
    _show(job, made, html, markdown)
    if batch is not None and dataset is not None:
        _show_batch(job, dataset, version, sample, batch)
    if before is not None:
        from dedup_storage.report.show.compare import compare, comparison_table

        comparison = compare(before, made, threshold=threshold)
        if str(job.json) != "-":
            stdout.print(comparison_table(comparison))
        comparison.raise_on_regression()


def _measure(
    job: Job,
    dataset: str | None,
    input: str | None,
    schema: Path | None,
    version: int | None,
    progress: FileProgress,
    *,
    columns: tuple[str, ...] = (),
    share: float | None = None,
    sample_bytes: int = 0,
    sample: str | None = None,
    baselines: bool = False,
    draw: DrawEngine | None = None,
    scratch: str | None = None,
    format: LogFormat | None = None,
) -> Report:
    from dedup_storage.report.draw.named import named_users
    from dedup_storage.report.estimate.baselines import ALL_LAYOUTS
    from dedup_storage.report.measure import measure_dataset, measure_log
    from dedup_storage.report.parquet.dataset_files import dataset_files
    from dedup_storage.schema import LogSchema
    from dedup_storage.sources.forms.flat import flat_source
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    layouts = ALL_LAYOUTS if baselines else ()
    if (dataset is None) == (input is None):
        raise UsageError(
            "the report needs one subject", expected="either --dataset NAME or --input LOG with --schema FILE"
        )
    if dataset is not None:
        return measure_dataset(
            dataset_files(job.settings, dataset, version), baselines=layouts, columns=columns, share=share,
            draw_bytes=sample_bytes, on_file=progress.files, on_step=progress.step, engine=draw,
            named=named_users(job.settings, dataset, sample, version) if sample is not None else None,
        )  # fmt: skip
    if sample is not None:
        raise UsageError("a flat log has no named samples", expected="--dataset NAME beside --sample")
    if schema is None:
        raise UsageError(
            "the input has no description", expected="--schema FILE", fix="Make one: dedup-storage infer-schema."
        )
    described = LogSchema.from_yaml(schema)
    log = open_source(
        str(input), format=None if format is None else format.value, wanted=wanted_columns(described),
        settings=job.settings, scratch=scratch,
    )  # fmt: skip
    lying = log
    log, described = flat_source(log, described, scratch)
    made = measure_log(
        log.table(), described, baselines=layouts, columns=columns,
        share=share, draw_bytes=sample_bytes, on_file=progress.files, on_step=progress.step, engine=draw,
    )  # fmt: skip
    lying.require_unchanged()
    # What was done with the columns on reading is said, as by every other command.
    return made.model_copy(update={"notes": (*made.notes, *log.notes)})


def _loaded(dataset: str | None, against: str) -> Report | None:
    """The earlier report; ``None`` for a version's number, which is measured later."""
    from dedup_storage.report.model import load_report

    if not against.isdecimal():
        return load_report(against)
    if dataset is None:
        raise UsageError("only a dataset has versions", expected="--against REPORT.json", got=against)
    return None


def _show(job: Job, made: Report, html: Path | None, markdown: Path | None) -> None:
    from dedup_storage.report.show import text

    if str(job.json) != "-":
        stdout.print(text.terminal(made))
    if markdown is not None:
        _write(markdown, text.markdown(made))
    if html is not None:
        from dedup_storage.report.show.html import html as page

        _write(html, page(made))
    job.write_json(made)


def _show_batch(job: Job, dataset: str, version: int | None, sample: str | None, size: int) -> None:
    from dedup_storage.reader import DedupDataset

    batches = DedupDataset(dataset, job.settings, version=version, sample=sample, batch_size=size)
    first = next(iter(batches), None)
    if first is None:
        stdout.print("There is no batch to show.", markup=False)
        return
    stdout.print(f"The first of the batches that DedupDataset({dataset!r}, batch_size={size}) gives:", markup=False)
    stdout.print(str(first), markup=False)


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report cannot be written to {path}: {error.strerror}") from None


def _compare_raw(job: Job, dataset: str | None, raw: str, version: int | None) -> None:
    from dedup_storage.report.parquet.dataset_files import dataset_files
    from dedup_storage.report.show.summary import summarize, summary_table
    from dedup_storage.sources.forms.flat import measured_as_parquet
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    if dataset is None:
        raise UsageError("--raw compares a dataset with its flat log", expected="--dataset NAME")
    with file_progress() as progress:
        progress.step("Reading footers")
        files = dataset_files(job.settings, dataset, version)
        wanted = wanted_columns(files.spec.schema_, files.spec.types)
        log = measured_as_parquet(open_source(raw, wanted=wanted, settings=job.settings))
        summary = summarize(files, log.table(), on_file=progress.files)
    if str(job.json) != "-":
        stdout.print(summary_table(summary, f"Stored bytes of {dataset}"))
        for note in log.notes:
            stdout.print(note, markup=False)
    job.write_json(asdict(summary) | {"ratio": summary.ratio, "dedup_factor": summary.dedup_factor})
