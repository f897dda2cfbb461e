"""``dedup-storage generate``: a synthetic raw log."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from dedup_storage.cli.options import keep_once, refuse_idle
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError

__all__ = ["generate"]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"the parameter {text[:80]!r} cannot be read", expected="NAME=VALUE, such as items=5000")
    try:
        return name.strip().replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(
            f"the value of the parameter {name[:80]} cannot be read", expected="a YAML scalar or list"
        ) from None


@job
def generate(
    job: Job,
    output: Annotated[str, typer.Argument(help="Directory of the log; must not exist.")],
    preset: Annotated[str, typer.Option(help="Parameters to start from: small, bench or long.")] = "small",
    users: Annotated[int | None, typer.Option(help="Number of users.")] = None,
    requests_per_user: Annotated[int | None, typer.Option(help="Mean requests of a user.")] = None,
    candidates_per_request: Annotated[int | None, typer.Option(help="Mean candidates of a request.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Longest history, in events.")] = None,
    layout: Annotated[str | None, typer.Option(help="flat, shuffled, nested or frames.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", help="Any other parameter, NAME=VALUE; repeatable.")
    ] = None,
) -> None:
    """Write a synthetic raw log (Parquet) and, beside it, the schema that describes it."""
    from dedup_storage.synth.params import SynthParams

    named = {
        "users": users,
        "requests_per_user": requests_per_user,
        "candidates_per_request": candidates_per_request,
        "sequence_length": sequence_length,
        "layout": layout,
        "seed": seed,
    }
    overrides = {name: value for name, value in named.items() if value is not None}
    others: dict[str, Any] = {}
    for name, value in map(_setting, parameter or ()):
        keep_once("--set", others, name, value)
        refuse_idle({f"--{name.replace('_', '-')}": name in overrides}, f"beside --set {name}=...")
    params = SynthParams.preset(preset, **overrides, **others)
    with job.spark() as spark:
        from dedup_storage.sources.generate import generate as write_log

        with job.step(f"Generating {output}", spark):
            summary = write_log(spark, params, output)
    job.done(f"Generated {output}", summary)
