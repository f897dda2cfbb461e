"""Late labels sorted out against one version: which of them win, what they replace, what is not known.

A label that came with the log has no time and gives way to any late one. Rows of impressions that the version does not
have are kept in ``labels_unknown``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DoubleType, FloatType, TimestampType

from dedup_storage.dataset.backfill.target import find_target
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.protocol import Run
from dedup_storage.layout import LABEL_TIMES, DatasetSpec, TableRole, TableSpec
from dedup_storage.schema import DateGrain
from dedup_storage.sources.exact import exact_cast
from dedup_storage.sources.held import declared_type, held, lost
from dedup_storage.sources.named import exact_keys
from dedup_storage.sources.times import as_times
from dedup_storage.spark.rows import buckets_of, only_row
from dedup_storage.spark.types import not_nan
from dedup_storage.words import counted

__all__ = ["LabelMerge", "LateLabels", "require_label", "sort_out"]

TIMES, UNKNOWN = LABEL_TIMES, "labels_unknown"
_WRONG, _NAN = "_wrong", "_nan"


@dataclass(frozen=True)
class LateLabels:
    """Late labels to merge.

    Attributes:
        rows: The user and request columns, the position (or the item: then every impression of it in the request), the
            label, and its time.
        label: The label's column.
        time: The column of its event time.
    """

    rows: DataFrame
    label: str
    time: str


@dataclass(frozen=True)
class LabelMerge:
    """Late labels sorted out against one version.

    Attributes:
        known: Late rows of the dataset's impressions, ``fresh`` where they win; persisted.
        unknown: Late rows of impressions that the dataset does not have; persisted.
        counts: Of ``LateLabelsSummary``.
    """

    late: LateLabels
    known: DataFrame
    unknown: DataFrame
    counts: dict[str, int]

    def release(self) -> None:
        """Free what is persisted."""
        self.known.unpersist()
        self.unknown.unpersist()

    @property
    def winners(self) -> DataFrame:
        """Key, event date, label and time of what changes."""
        return self.known.filter("fresh")

    def replacement(self, spec: DatasetSpec) -> DataFrame:
        """The winners as replacement rows."""
        return self.winners.select(*spec.impression_key, self.late.label)

    def stage(self, handle: Handle, run: Run) -> list[str]:
        """Stage the times of the winners and the unknown rows beside the backfill; the tables staged to."""
        tables, spec, label = handle.tables, handle.spec, self.late.label
        staged = []
        if self.counts["merged_rows"]:
            table = times_table(spec)
            tables.create_table(spec, table, _types(self.winners, table) | {"label": "string"})
            rows = self.winners.withColumn("label", F.lit(label)).select(*table.columns)
            tables.stage(spec, table, _own_session(rows), run)
            staged.append(table.name)
        if self.counts["unknown_rows"]:
            table = unknown_table(spec)
            undated = spec.model_copy(update={"date_grain": DateGrain.NONE})
            tables.create_table(undated, table, _unknown_types(spec))
            tables.stage(spec, table, _own_session(_unknown_rows(spec, self.unknown, self.late, run.run_id)), run)
            staged.append(table.name)
        return staged


def times_table(spec: DatasetSpec) -> TableSpec:
    """The table of merged labels' times: one row for each merge of an impression's label."""
    dates = (spec.event_date_column,) if spec.event_date_column else ()
    columns = tuple(dict.fromkeys((*spec.request_key, *dates, spec.position_column, "label", "label_time")))
    return TableSpec(role=TableRole.LABELS, name=TIMES, columns=columns, sort_columns=spec.impression_key)


def unknown_table(spec: DatasetSpec) -> TableSpec:
    """The table of rows set aside; values as text, for nothing is known of them."""
    columns = (*spec.request_key, "position_or_item", "label", "value", "label_time", "run_id")
    return TableSpec(role=TableRole.LABELS, name=UNKNOWN, columns=columns, sort_columns=spec.request_key)


def _types(frame: DataFrame, table: TableSpec) -> dict[str, str]:
    return {f.name: f.dataType.simpleString() for f in frame.schema.fields if f.name in table.columns}


def _unknown_types(spec: DatasetSpec) -> dict[str, str]:
    types = dict(zip(spec.source_columns, spec.source_types, strict=True))
    known = {k: types[k] for k in spec.request_key}
    return (
        known | dict.fromkeys(("position_or_item", "label", "value", "run_id"), "string") | {"label_time": "timestamp"}
    )


def _unknown_rows(spec: DatasetSpec, rows: DataFrame, late: LateLabels, run_id: str) -> DataFrame:
    place = spec.position_column if spec.position_column in rows.columns else spec.schema_.item
    return rows.select(
        *spec.request_key,
        F.col(place).cast("string").alias("position_or_item"),
        F.lit(late.label).alias("label"),
        F.col(late.label).cast("string").alias("value"),
        F.col(late.time).alias("label_time"),
        F.lit(run_id).alias("run_id"),
    )


def sort_out(cut: Cut, late: LateLabels) -> LabelMerge:
    """Find what the late rows change in a version.

    Raises:
        UsageError: the column is no label, or a row has no key or no time.
        SchemaError: a needed column is missing.
    """
    spec, tables, session = cut.spec, cut.handle.tables, cut.handle.spark
    require_label(spec, late.label)
    target = find_target(cut.meta, cut.version, [late.label])
    stored = move_to(session, cut.stored(target.table, hidden=True))
    place = _place(spec, late.rows)
    key = [*spec.request_key, place]
    for name in (*key, late.label, late.time):
        if name not in late.rows.columns:
            raise SchemaError(
                f"the late labels lack the column {name}", expected=name, got=known_names(name, late.rows.columns)
            )
    told, _, _ = as_times(move_to(session, late.rows), late.time)
    kinds = {k: stored.schema[k].dataType for k in key}
    given = told.schema[late.label].dataType
    kind = declared_type(spec.types, late.label, stored.schema[late.label].dataType)
    label, made = F.col(late.label), held(F.col(late.label), given, kind)
    nan = F.coalesce(_is_nan(label, given) | _is_nan(made, kind), F.lit(False))
    wrong = lost(label, given, kind)
    rows = exact_keys(told, kinds, "late labels").select(
        *key,
        made.alias(late.label),
        _instant(F.col(late.time), told.schema[late.time].dataType).alias("label_time"),
        (F.lit(False) if wrong is None else ~nan & F.coalesce(wrong, F.lit(False))).alias(_WRONG),
        nan.alias(_NAN),
    )
    newest, counts = _newest(rows, key, late.label)
    if counts["missing"]:
        raise UsageError(
            f"{counted(counts['missing'], 'late label', 'has')} no key or no time",
            expected=f"{', '.join(key)}, {late.time}",
        )
    if counts["wrong"]:
        raise UsageError(
            f"{counted(counts['wrong'], 'late label', 'has')} a value that the column {late.label} cannot hold",
            expected=f"values that {kind.simpleString()} holds as they are",
            got=given.simpleString(),
            fix=f"Correct them, or cast {late.label} in the late labels.",
        )
    newest = newest.persist()
    dates = [spec.event_date_column] if spec.event_date_column else []
    own = list(dict.fromkeys([*key, *dates, *spec.impression_key]))
    inside = tables.in_buckets(spec, buckets_of(newest, cut.handle.bucket))
    stored = stored.filter(inside).select(*own, F.col(late.label).alias("_stored"))
    known = stored.join(newest, key)
    if TIMES in cut.snapshots:
        times = move_to(session, cut.stored(TIMES, hidden=True)).filter(inside & (F.col("label") == late.label))
        times = times.groupBy(*spec.impression_key).agg(F.max("label_time").alias("merged_time"))
        known = known.join(times, list(spec.impression_key), "left")
    else:
        known = known.withColumn("merged_time", F.lit(None).cast("timestamp"))
    # Of equal times the greatest label wins, as among the rows of one run; null is the least, and NaN is none.
    greater = F.coalesce(F.col(late.label) > not_nan(F.col("_stored"), kind), F.col(late.label).isNotNull())
    newer = (F.col("label_time") > F.col("merged_time")) | ((F.col("label_time") == F.col("merged_time")) & greater)
    fresh = F.col("merged_time").isNull() | newer
    known = known.withColumn("fresh", fresh).persist()
    unknown = newest.join(stored.select(*key), key, "left_anti").persist()
    kept = _counted(newest, unknown, known)
    merged = {
        "input_rows": counts["all"],
        "nan_rows": counts["nan"],
        "superseded_rows": counts["all"] - counts["nan"] - kept["newest"],
        "stale_rows": kept["stale"],
        "unknown_rows": kept["unknown"],
        "merged_rows": kept["merged"],
    }
    newest.unpersist()
    return LabelMerge(LateLabels(late.rows, late.label, "label_time"), known, unknown, merged)


def _counted(newest: DataFrame, unknown: DataFrame, known: DataFrame) -> dict[str, int]:
    """Rows of each kind, in one query."""
    fresh = F.col("fresh")
    kinds = newest.select(F.lit("newest").alias("kind")).union(unknown.select(F.lit("unknown")))
    kinds = kinds.union(known.select(F.when(fresh, "merged").when(~fresh, "stale")))
    names = ("newest", "unknown", "merged", "stale")
    row = only_row(kinds.agg(*(F.count_if(F.col("kind") == name).alias(name) for name in names)))
    return {name: int(row[name]) for name in names}


def require_label(spec: DatasetSpec, label: str) -> None:
    """Refuse a column that is no label.

    Raises:
        UsageError: it is none.
    """
    if label not in spec.schema_.labels:
        raise UsageError(
            f"the column {label} is no label of the dataset {spec.name}",
            expected=known_names(label, spec.schema_.labels),
            fix="Use backfill for other columns.",
        )


def _own_session(rows: DataFrame) -> DataFrame:
    # What a staged snapshot is named by is a setting of the session, which the backfill's own queries must not have.
    return move_to(run_session(rows.sparkSession), rows)


def _instant(time: Column, kind: DataType) -> Column:
    """A time as a timestamp; one without a zone, and a date, are UTC whatever zone the session has."""
    exact = exact_cast(time, kind, TimestampType())
    return exact if exact is not None else time.cast(TimestampType())


def _is_nan(value: Column, kind: DataType) -> Column:
    return F.isnan(value) if isinstance(kind, (FloatType, DoubleType)) else F.lit(False)


def _place(spec: DatasetSpec, rows: DataFrame) -> str:
    if spec.position_column in rows.columns:
        return spec.position_column
    if spec.schema_.item in rows.columns:
        return spec.schema_.item
    raise UnknownColumnError(
        "the late labels do not say which impression they belong to",
        expected=f"{spec.position_column} or {spec.schema_.item}",
        got=", ".join(rows.columns),
    )


def _newest(rows: DataFrame, key: Sequence[str], label: str) -> tuple[DataFrame, dict[str, int]]:
    """The newest row of each key (of equal times the greatest label), and counts of all rows and of unusable ones."""
    missing: Column = F.col("label_time").isNull()
    for name in key:
        missing = missing | F.col(name).isNull()
    flags = {"missing": missing, "wrong": F.col(_WRONG), "nan": F.col(_NAN)}
    row = only_row(rows.agg(F.count(F.lit(1)).alias("all"), *(F.count_if(c).alias(n) for n, c in flags.items())))
    best = F.max(F.struct("label_time", label)).alias("best")
    newest = rows.filter(~F.col(_NAN)).groupBy(*key).agg(best)
    return newest.select(*key, f"best.{label}", "best.label_time"), {n: int(row[n]) for n in ("all", *flags)}
