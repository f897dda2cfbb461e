"""Requests whose request-grain columns differ between rows: the refusal, and the quarantine."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import ConstancyError
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.layout import DatasetSpec, TableRole, TableSpec
from dedup_storage.schema import DateGrain, Grain
from dedup_storage.sources.grains import varying_requests
from dedup_storage.sources.raw import RawLog
from dedup_storage.words import counted

__all__ = ["constancy_error", "example_requests", "quarantine"]

_EXAMPLES = 3


def example_requests(spec: DatasetSpec, requests: DataFrame) -> str:
    """A few request keys for a message; never a user key."""
    shown = requests.select(F.to_json(F.struct(*spec.schema_.request)).alias("k")).limit(_EXAMPLES)
    return ", ".join(row["k"] for row in shown.toLocalIterator())


def constancy_error(spec: DatasetSpec, raw: RawLog, inconstant: DataFrame, requests: int) -> ConstancyError:
    """The refusal of ``requests`` requests, whose keys ``inconstant`` holds: names the columns that vary."""
    grains = spec.schema_.declared_grains()
    wide = set(spec.source_columns) - set(spec.request_key)
    fields = [f for f in raw.frame.schema.fields if f.name in wide and grains[f.name] is Grain.REQUEST]
    _, varying = varying_requests(raw.frame, spec.request_key, fields)
    counts = ", ".join(f"{column} in {n}" for column, n in varying.items() if n)
    return ConstancyError(
        f"request-grain columns differ inside {counted(requests, 'request')}: {counts}",
        expected="one value per request",
        got=f"several, for example in request {example_requests(spec, inconstant)}",
        fix="Declare these columns impression-grain, or choose --on-inconstant first or quarantine.",
    )


def quarantine(handle: Handle, raw: RawLog, inconstant: DataFrame, run: Run) -> Staged:
    """Stage the rows of inconstant requests in a table of their own, as they came, with the reason."""
    spec = handle.spec
    table = TableSpec(
        role=TableRole.QUARANTINE,
        name="quarantine",
        columns=(*spec.source_columns, "quarantine_reason", "quarantine_run"),
        sort_columns=spec.request_key,
    )
    types = dict(zip(spec.source_columns, spec.source_types, strict=True))
    types |= {"quarantine_reason": "string", "quarantine_run": "string"}
    undated = spec.model_copy(update={"date_grain": DateGrain.NONE})
    handle.tables.create_table(undated, table, types)
    # It may have been made before columns were added.
    handle.tables.extend(undated, table, types)
    rows = raw.frame.join(F.broadcast(inconstant), list(spec.request_key), "left_semi")
    rows = rows.withColumn("quarantine_reason", F.lit("request-grain columns differ inside the request"))
    rows = rows.withColumn("quarantine_run", F.lit(run.run_id))
    return handle.tables.stage(spec, table, rows, replace(run, replaced=None))
