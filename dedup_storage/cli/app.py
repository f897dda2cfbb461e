"""The jobs by name. A new job is one module beside this one and one line here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dedup_storage import __version__
from dedup_storage.cli import (
    adopt,
    backfill,
    check,
    convert,
    estimate,
    features,
    forget_user,
    generate,
    infer_schema,
    join,
    late_labels,
    maintain,
    report,
    sample,
    tune,
    validate,
    versions,
    write,
)

__all__ = ["app", "main", "run_job"]

app = typer.Typer(
    name="dedup-storage",
    help="Keep one copy of everything known about a user, from the raw training log to the forward pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"dedup-storage {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep one copy of everything known about a user, from the raw training log to the forward pass.

    Exit status: 0 done, 1 failed while running (nothing half-published), 2 wrong usage or input, 3 refused by
    the quality gate.
    """


app.command("generate")(generate.generate)
app.command("infer-schema")(infer_schema.infer_schema)
app.command("validate")(validate.validate)
app.command("write")(write.write)
app.command("report")(report.report)
app.command("compression-report", hidden=True)(report.report)
app.command("estimate")(estimate.estimate)
app.command("tune")(tune.tune)
app.command("check")(check.check)
app.command("join")(join.join)
app.command("add-features")(features.add_features)
app.command("refresh-features")(features.refresh_features)
app.command("promote-features")(features.promote_features)
app.command("drop-features")(features.drop_features)
app.add_typer(features.app, name="features")
app.command("backfill")(backfill.backfill)
app.command("late-labels")(late_labels.late_labels)
app.command("adopt")(adopt.adopt)
app.command("convert")(convert.convert)
app.command("maintain")(maintain.maintain)
app.command("forget-user")(forget_user.forget_user)
app.add_typer(sample.app, name="sample")
app.add_typer(versions.app, name="versions")


def main() -> None:
    """Run the job named by the command line and exit with its status."""
    app()


def run_job(name: str) -> None:
    """Run one job with the process's arguments: what ``jobs/NAME.py`` does under spark-submit."""
    app(args=[name, *sys.argv[1:]], prog_name="dedup-storage")
