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
    datasets,
    doctor,
    estimate,
    features,
    forget_user,
    generate,
    infer_schema,
    join,
    late_labels,
    maintain,
    rebucket,
    report,
    sample,
    tune,
    validate,
    versions,
    write,
)
from dedup_storage.cli.arrow_alone import own_process
from dedup_storage.cli.commands import Commands
from dedup_storage.cli.runtime import former

__all__ = ["app", "main", "run_job"]

app = Commands(
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


_LOGS, _DATASETS, _COLUMNS, _UPKEEP = "Logs", "Datasets", "Rows and columns", "Upkeep"
app.command("generate", rich_help_panel=_LOGS)(generate.generate)
app.command("infer-schema", rich_help_panel=_LOGS)(infer_schema.infer_schema)
app.command("validate", rich_help_panel=_LOGS)(validate.validate)
app.command("estimate", rich_help_panel=_LOGS)(estimate.estimate)
app.command("write", rich_help_panel=_LOGS)(write.write)
app.command("adopt", rich_help_panel=_LOGS)(adopt.adopt)
app.add_typer(datasets.app, name="datasets", rich_help_panel=_DATASETS)
app.add_typer(versions.app, name="versions", rich_help_panel=_DATASETS)
app.command("report", rich_help_panel=_DATASETS)(report.report)
app.command("check", rich_help_panel=_DATASETS)(check.check)
app.command("tune", rich_help_panel=_DATASETS)(tune.tune)
app.command("join", rich_help_panel=_DATASETS)(join.join)
app.command("convert", rich_help_panel=_DATASETS)(convert.convert)
app.command("rebucket", rich_help_panel=_DATASETS)(rebucket.rebucket)
app.add_typer(features.app, name="features", rich_help_panel=_COLUMNS)
app.command("backfill", rich_help_panel=_COLUMNS)(backfill.backfill)
app.command("late-labels", rich_help_panel=_COLUMNS)(late_labels.late_labels)
app.add_typer(sample.app, name="sample", rich_help_panel=_COLUMNS)
app.command("maintain", rich_help_panel=_UPKEEP)(maintain.maintain)
app.command("doctor", rich_help_panel=_UPKEEP)(doctor.doctor)
app.command("forget-user", rich_help_panel=_UPKEEP)(forget_user.forget_user)

# Names that commands had before.
for _old, _new, _command in (
    ("add-features", "features add", features.add),
    ("refresh-features", "features refresh", features.refresh),
    ("promote-features", "features promote", features.promote),
    ("drop-features", "features drop", features.drop),
    ("compression-report", "report", report.report),
):
    app.command(_old, hidden=True)(former(_command, _old, _new))


def main() -> None:
    """Run the job named by the command line and exit with its status."""
    own_process()
    app()


def run_job(*names: str) -> None:
    """Run one job, ``GROUP NAME`` or ``NAME``, with the process's arguments: what a script of ``jobs/`` does."""
    own_process()
    app(args=[*names, *sys.argv[1:]], prog_name="dedup-storage")
