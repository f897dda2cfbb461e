"""How many bytes a sample reads: before, from the metadata; afterwards, from Spark's own counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, LessThanOrEqual
from pyiceberg.transforms import BucketTransform

from dedup_storage.sampling.definition import Sample

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dedup_storage.spark.dataset import Dataset

__all__ = ["SamplePlan", "TablePlan", "bytes_read", "plan_sample"]

T = TypeVar("T")
_WHOLE = (
    "No file is left out: users are chosen by a hash of their own, so each bucket and each file holds some of them. "
    "A sample of whole buckets (buckets=k), one with event dates, or one of so few users that buckets are empty "
    "leaves files out; or materialise this one."
)


class TablePlan(BaseModel):
    """Files of one table: those a sample opens, and all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    files: int
    all_files: int
    bytes: int
    all_bytes: int


class SamplePlan(BaseModel):
    """What a sample opens.

    Attributes:
        dataset, sample, version: Which.
        tables: By table; whole files, so reading few columns takes less.
        bytes: Together.
        all_bytes: Without the sample.
        share: bytes / all_bytes.
        pruned_by: What leaves files out.
        note: Why nothing does, where nothing does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    sample: str
    version: int
    tables: tuple[TablePlan, ...]
    bytes: int
    all_bytes: int
    share: float
    pruned_by: tuple[str, ...]
    note: str = ""


def plan_sample(ds: Dataset, sample: Sample, version: int | None) -> SamplePlan:
    """Sizes from manifests alone; nothing is read."""
    meta = ds.metadata()
    version = meta.resolve(version)
    where = _dates(ds, sample)
    tables = []
    for name, snapshot in meta.snapshots(version).items():
        table = meta.tables[name]
        files = list(table.scan(snapshot_id=snapshot).plan_files())
        dated = files if isinstance(where, AlwaysTrue) else table.scan(where, snapshot_id=snapshot).plan_files()
        kept = [t.file for t in dated if _in_buckets(table, t.file, sample)]
        tables.append(
            TablePlan(
                table=name,
                files=len(kept),
                all_files=len(files),
                bytes=sum(f.file_size_in_bytes for f in kept),
                all_bytes=sum(t.file.file_size_in_bytes for t in files),
            )
        )
    total, everything = sum(t.bytes for t in tables), sum(t.all_bytes for t in tables)
    by = ["buckets"] if sample.chosen_buckets else []
    by += ["event dates"] if not isinstance(where, AlwaysTrue) else []
    return SamplePlan(
        dataset=ds.name,
        sample=sample.name,
        version=version,
        tables=tuple(tables),
        bytes=total,
        all_bytes=everything,
        share=round(total / everything, 6) if everything else 0.0,
        pruned_by=tuple(by),
        note="" if by else _WHOLE,
    )


def _dates(ds: Dataset, sample: Sample) -> BooleanExpression:
    date, spec = ds.spec.event_date_column, sample.spec
    where: BooleanExpression = AlwaysTrue()
    if date is not None and spec.start is not None:
        where = And(where, GreaterThanOrEqual(term=date, value=spec.start.isoformat()))
    if date is not None and spec.end is not None:
        where = And(where, LessThanOrEqual(term=date, value=spec.end.isoformat()))
    return where


def _in_buckets(table: Any, file: Any, sample: Sample) -> bool:
    if not sample.chosen_buckets:
        return True
    for place, field in enumerate(table.metadata.specs()[file.spec_id].fields):
        if isinstance(field.transform, BucketTransform):
            return file.partition[place] in sample.chosen_buckets
    return True


def bytes_read(spark: SparkSession, task: Callable[[], T]) -> tuple[T, int]:
    """A task's result, and the bytes that its stages read from storage, as Spark's status store counts them."""
    before = {stage.stageId() for stage in _stages(spark)}
    result = task()
    spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
    return result, sum(s.inputBytes() for s in _stages(spark) if s.stageId() not in before)


def _stages(spark: SparkSession) -> list[Any]:
    gateway: Any = spark.sparkContext._gateway
    store = spark.sparkContext._jsc.sc().statusStore()
    found = store.stageList(None, False, False, gateway.new_array(gateway.jvm.double, 0), None)
    return [found.apply(i) for i in range(found.size())]
