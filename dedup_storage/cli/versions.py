"""``dedup-storage versions``: list, pin, unpin, roll back."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, RunIdOption
from dedup_storage.cli.output import show_table
from dedup_storage.cli.runtime import Job, job

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, pin or roll back the versions of a dataset.")

Label = Annotated[str, typer.Option(help="Name of the pin: letters, digits, underscores.")]


@app.command("list")
@job
def list_versions(job: Job, dataset: DatasetOption) -> None:
    """List the published versions, newest first."""
    with job.spark() as spark:
        from dedup_storage.spark.dataset import Dataset

        infos = [info.model_dump(mode="json") for info in Dataset.open(spark, job.settings, dataset).versions()]
    infos.sort(key=lambda info: info["version"], reverse=True)
    if str(job.json) != "-":
        columns = list(infos[0]) if infos else ["version"]
        show_table(f"Versions of {dataset}", columns, [[info[c] for c in columns] for info in infos])
    job.write_json(infos)


@app.command("pin")
@job
def pin(
    job: Job,
    version: Annotated[int, typer.Argument(min=1, help="Version to keep.")],
    dataset: DatasetOption,
    label: Label,
) -> None:
    """Keep a version through expiry, and print what names it, as JSON."""
    with job.spark() as spark:
        from dedup_storage.spark.dataset import Dataset

        pinned = Dataset.open(spark, job.settings, dataset).pin(version, label)
    job.done(f"Pinned version {version} of {dataset}", pinned)


@app.command("unpin")
@job
def unpin(job: Job, label: Annotated[str, typer.Argument(help="Name of the pin.")], dataset: DatasetOption) -> None:
    """Let expiry have a pinned version again."""
    with job.spark() as spark:
        from dedup_storage.spark.dataset import Dataset

        Dataset.open(spark, job.settings, dataset).unpin(label)
    job.done(f"Unpinned {label}", {"dataset": dataset, "label": label})


@app.command("rollback")
@job
def rollback(
    job: Job,
    version: Annotated[int, typer.Argument(min=1, help="Version whose content comes back.")],
    dataset: DatasetOption,
    run_id: RunIdOption = None,
) -> None:
    """Publish an earlier version's content as the newest version."""
    with job.spark() as spark:
        from dedup_storage.spark.dataset import Dataset

        opened = Dataset.open(spark, job.settings, dataset)
        with job.step(f"Rolling {dataset} back", spark):
            summary = opened.rollback(version, run_id=run_id)
    job.done(f"Rolled {dataset} back to version {version}", summary)
