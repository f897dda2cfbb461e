"""``dedup-storage sample``: named samples of whole users."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dedup_storage.cli.commands import Commands
from dedup_storage.cli.options import (
    DatasetOption,
    DryRunOption,
    GateOption,
    RunIdOption,
    VersionOption,
    keep_once,
    refuse_idle,
)
from dedup_storage.cli.output import show_table
from dedup_storage.cli.runtime import Job, job
from dedup_storage.documents import read_values
from dedup_storage.errors import StorageError, UsageError

if TYPE_CHECKING:
    from dedup_storage.sampling.summary import SampleReport, SampleSummary

__all__ = ["app"]

app = Commands(no_args_is_help=True, help="Make, read and judge samples of whole users.")

Name = Annotated[str, typer.Argument(help="Name of the sample.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the hash that chooses users.")]


class _Allocation(StrEnum):
    PROPORTIONAL = "proportional"
    EQUAL = "equal"
    NEYMAN = "neyman"


def _pairs(given: list[str] | None, option: str, kind: type) -> dict[str, Any]:
    """``label=value`` options; the label may hold an equals sign itself."""
    found: dict[str, Any] = {}
    for text in given or ():
        name, _, value = text.rpartition("=")
        try:
            number = kind(value)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(
                f"the option {option} cannot be read", expected="LABEL=NUMBER, such as country=DK=0.5", got=text
            )
        keep_once(option, found, name, number)
    return found


def _strata(given: list[str] | None) -> list[dict[str, Any]]:
    """``column``, ``measure:quantiles`` or ``name=sql``."""
    from dedup_storage.sampling.definition import Measure

    found: list[dict[str, Any]] = []
    for text in given or ():
        name, colon, parts = text.partition(":")
        if "=" in text and not colon:
            name, _, expression = text.partition("=")
            found.append({"name": name, "expression": expression})
            continue
        if colon and not parts.isdigit():
            raise UsageError("the stratum cannot be read", expected="COLUMN, MEASURE:PARTS or COLUMN:PARTS", got=text)
        kind = "measure" if name in list(Measure) else "column"
        found.append({"name": name, kind: name, **({"quantiles": int(parts)} if parts else {})})
    return found


def _definition(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    values = read_values(path, "the definition", UsageError)
    if not isinstance(values, dict):
        raise UsageError(f"the definition {path} is not a mapping", expected="keys such as fraction, strata, caps")
    return values


@app.command("create")
@job
def create(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    definition: Annotated[Path | None, typer.Option(help="The whole definition as YAML, caps among it.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Share of the users.")] = None,
    stratum_fraction: Annotated[
        list[str] | None, typer.Option(help="Share of one stratum: LABEL=SHARE, * for all others; repeatable.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Exact users of one stratum: LABEL=USERS, * for all others; repeatable.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Users in all, divided by --allocation.")] = None,
    allocation: Annotated[_Allocation | None, typer.Option(help="How --size is divided among strata.")] = None,
    by: Annotated[str | None, typer.Option(help="Measure whose spread Neyman allocation goes by.")] = None,
    minimum: Annotated[int | None, typer.Option(min=0, help="Fewest users of a stratum, with --size.")] = None,
    buckets: Annotated[int | None, typer.Option(min=1, help="Whole user buckets to take.")] = None,
    stratum: Annotated[
        list[str] | None,
        typer.Option("--stratum", help="COLUMN, COLUMN:PARTS, MEASURE:PARTS or NAME=SQL-AGGREGATE; repeatable."),
    ] = None,
    first_date: Annotated[str | None, typer.Option("--from", help="First event date (2024-01-31).")] = None,
    last_date: Annotated[str | None, typer.Option("--to", help="Last event date, included.")] = None,
    former_first: Annotated[str | None, typer.Option("--start", hidden=True)] = None,
    former_last: Annotated[str | None, typer.Option("--end", hidden=True)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the hash that chooses users; 0 if no definition says it.")
    ] = None,
    version: VersionOption = None,
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Make a named sample; made already with the same definition, it stays as it is."""
    if first_date is not None:
        refuse_idle({"--start": former_first is not None}, "beside --from, its name now")
    if last_date is not None:
        refuse_idle({"--end": former_last is not None}, "beside --to, its name now")
    given: dict[str, Any] = {
        "fraction": fraction,
        "fractions": _pairs(stratum_fraction, "--stratum-fraction", float),
        "targets": _pairs(target, "--target", int),
        "size": size,
        "allocation": allocation.value if allocation else None,
        "by": by,
        "minimum": minimum,
        "buckets": buckets,
        "strata": _strata(stratum),
        "start": first_date or former_first,
        "end": last_date or former_last,
        "seed": seed,
    }
    values = {**_definition(definition), **{k: v for k, v in given.items() if v not in (None, {}, [])}}
    with job.dataset(dataset) as opened, job.step(f"Sampling {dataset}", opened.spark):
        summary = opened.samples.make(name, values, version=version, run_id=run_id, dry_run=dry_run)
    job.done(_title(summary), summary)


@app.command("split")
@job
def split(
    job: Job,
    dataset: DatasetOption,
    share: Annotated[list[str] | None, typer.Option(help="NAME=SHARE of the users; repeatable.")] = None,
    dates: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FIRST:LAST event dates, either end may be empty; repeatable."),
    ] = None,
    seed: Seed = 0,
    version: VersionOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Make samples without a row in common: train, validation and test by user, by time, or by both."""
    parsed: dict[str, tuple[dt.date | None, dt.date | None]] = {}
    for text in dates or ():
        name, _, period = text.partition("=")
        first, colon, last = period.partition(":")
        try:
            begin, end = (dt.date.fromisoformat(d) if d else None for d in (first, last))
        except ValueError:
            colon = ""
        if not colon:
            raise UsageError("the dates cannot be read", expected="NAME=2024-01-01:2024-01-31", got=text)
        keep_once("--dates", parsed, name, (begin, end))
    shares = _pairs(share, "--share", float)
    if not shares:
        refuse_idle({"--seed": seed != 0}, "without --share: no users are drawn")
    with job.dataset(dataset) as opened, job.step(f"Dividing {dataset}", opened.spark):
        made = opened.samples.split(shares or None, parsed or None, seed=seed, version=version, dry_run=dry_run)
    rows = [(s.name, s.users, s.population) for s in made]
    title = f"{'Samples that would be made' if dry_run else 'Samples'} of {dataset}"
    job.listed(title, ("sample", "users", "of"), rows, made)


def _title(summary: SampleSummary) -> str:
    told = f"ample {summary.name} of {summary.dataset}"
    if summary.unchanged:
        return f"S{told}: unchanged"
    return f"Would make s{told}" if summary.dry_run else f"S{told}"


@app.command("list")
@job
def list_samples(job: Job, dataset: DatasetOption) -> None:
    """List the named samples, without Spark."""
    found = [sample for _, sample in _stored(job, dataset)]
    columns = ("sample", "version", "design", "users", "of", "strata")
    rows = [
        (s.name, s.version, s.spec.design.value, s.users, sum(c.users for c in s.strata), len(s.strata)) for s in found
    ]
    job.listed(f"Samples of {dataset}", columns, rows, found)


@app.command("describe")
@job
def describe(job: Job, name: Name, dataset: DatasetOption) -> None:
    """Show a sample's definition and counts, without Spark."""
    from dedup_storage.errors import known_names
    from dedup_storage.sampling.summary import summarize

    stored = dict(_stored(job, dataset))
    if name not in stored:
        raise UsageError(f"the dataset {dataset} has no sample {name}", expected=known_names(name, stored))
    sample = stored[name]
    if str(job.json) != "-":
        from dedup_storage.cli.output import show_summary

        show_summary(f"Sample {name} of {dataset}", summarize(dataset, sample))
        show_summary("Definition", sample.spec.model_dump(mode="json", exclude_defaults=True))
    job.write_json(sample)


def _stored(job: Job, dataset: str) -> list[tuple[str, Any]]:
    from dedup_storage.sampling.stored import parse_sample

    return [(name, parse_sample(text)) for name, text in sorted(job.metadata(dataset).samples.items())]


@app.command("plan")
@job
def plan(job: Job, name: Name, dataset: DatasetOption, version: VersionOption = None) -> None:
    """Show how many bytes of files reading a sample opens."""
    with job.dataset(dataset) as opened:
        found = opened.samples.plan(name, version)
    job.done(f"Reading sample {name} of {dataset}", found)


@app.command("refresh")
@job
def refresh(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    version: VersionOption = None,
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Take in the users of a newer version."""
    with job.dataset(dataset) as opened, job.step(f"Refreshing {name}", opened.spark):
        summary = opened.samples.refresh(name, version=version, run_id=run_id, dry_run=dry_run)
    job.done(_title(summary), summary)


@app.command("drop")
@job
def drop(job: Job, name: Name, dataset: DatasetOption, dry_run: DryRunOption = False) -> None:
    """Forget a sample; the dataset's rows stay as they are."""
    with job.dataset(dataset) as opened:
        opened.samples.drop(name, dry_run=dry_run)
    told = {"dataset": dataset, "sample": name, "dry_run": dry_run}
    job.shown(f"{'Would drop' if dry_run else 'Dropped'} sample {name}", {"dataset": dataset, "sample": name}, told)


@app.command("materialise")
@job
def materialise(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    into: Annotated[str, typer.Option("--into", help="Name of the new dataset.")],
    version: VersionOption = None,
    dry_run: DryRunOption = False,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Write a sample's rows into a dataset of its own, weights as columns."""
    with job.dataset(dataset, gate=gate) as opened, job.step(f"Writing {into}", opened.spark):
        summary = opened.samples.materialise(name, into, version=version, run_id=run_id, gate=gate, dry_run=dry_run)
    if dry_run and not summary.already_published:
        job.shown(f"Would write {into}", summary.shown(), summary)
        return
    job.done(f"Wrote {into}", summary)


@app.command("report")
@job
def report(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    verify: Annotated[bool, typer.Option("--verify", help="Also compute the truth on the full data.")] = False,
    confidence: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    version: VersionOption = None,
) -> None:
    """Report requested and realised counts, weights, and estimates with intervals."""
    with job.dataset(dataset) as opened, job.step(f"Estimating from {name}", opened.spark):
        made = opened.samples.report(name, verify=verify, confidence=confidence, version=version)
    if str(job.json) != "-":
        _show(made)
    if html is not None:
        from dedup_storage.report.show.samples import html as page

        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(page(made), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"the report cannot be written to {html}: {error.strerror}") from None
    job.write_json(made)


def _show(made: SampleReport) -> None:
    from dedup_storage.cli.output import show_summary

    summary = made.summary
    show_summary(f"Sample {summary.name} of {summary.dataset}", summary)
    show_summary(
        "Weights and bytes",
        {**made.weights.model_dump(), "planned_bytes": made.planned_bytes, "all_bytes": made.all_bytes,
         "read_bytes": made.read_bytes},
    )  # fmt: skip
    rows = [
        (m.metric, f"{m.estimate:.5g}", f"{m.low:.5g} to {m.high:.5g}", _number(m.unweighted), _number(m.truth),
         "" if m.covered is None else "yes" if m.covered else "no")
        for m in made.metrics
    ]  # fmt: skip
    interval = f"{made.confidence:.0%} interval"
    show_table("Estimates", ("metric", "estimate", interval, "unweighted", "truth", "covered"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
