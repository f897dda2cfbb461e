"""One part of a backfill: a few segments, one strategy, one commit to the run's branch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, MapType, StringType, StructType, VariantType

from dedup_storage.dataset.backfill.affected import FILE, HIT, MOST_COPIED, NEW, AffectedRows
from dedup_storage.dataset.backfill.plan import BackfillPlan, SegmentPlan
from dedup_storage.dataset.backfill.request import Strategy
from dedup_storage.dataset.backfill.target import Target
from dedup_storage.faults import reached
from dedup_storage.lake.branch import BASE, PART, RUN_ID, Branch
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.protocol import Run, TableFormat
from dedup_storage.lake.requests import REQUEST
from dedup_storage.lake.segments import Segment, encode_segments
from dedup_storage.layout import DatasetSpec, TableRole, TableSpec
from dedup_storage.spark.rows import text_frame

__all__ = [
    "MOST_SEGMENTS",
    "Part",
    "SegmentFiles",
    "done_segments",
    "inside_segments",
    "left_files",
    "parts_of",
    "run_part",
    "swap_rows",
]

MOST_SEGMENTS = 256
PART_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Part:
    """Segments that are rewritten together, all by the same strategy."""

    strategy: Strategy
    segments: tuple[SegmentPlan, ...]

    @property
    def names(self) -> tuple[Segment, ...]:
        """Their names."""
        return tuple(s.segment for s in self.segments)

    @property
    def affected_rows(self) -> int:
        """With new values."""
        return sum(s.affected_rows for s in self.segments)

    @property
    def write_bytes(self) -> int:
        """Planned."""
        return sum(s.write_bytes for s in self.segments)


def parts_of(plan: BackfillPlan, done: Iterable[Segment], most_segments: int = MOST_SEGMENTS) -> Iterator[Part]:
    """Divide what is left of a plan: at most ``most_segments`` segments and some gigabytes each."""
    finished = set(done)
    for strategy in Strategy:
        chosen: list[SegmentPlan] = []
        size = 0
        for segment in plan.segments:
            if segment.strategy is not strategy or segment.segment in finished:
                continue
            if chosen and (len(chosen) == most_segments or size + segment.bytes > PART_BYTES):
                yield Part(strategy, tuple(chosen))
                chosen, size = [], 0
            chosen.append(segment)
            size += segment.bytes
        if chosen:
            yield Part(strategy, tuple(chosen))


def done_segments(branch: Branch) -> set[Segment]:
    """Segments that the branch's parts hold already."""
    return {segment for part in branch.parts() for segment in part.segments}


class SegmentFiles:
    """Places of the data files of some segments, listed once: each look at a table's files reads all of its manifests.

    Args:
        files: Gives ``TableFormat.files`` of the table; called when places are asked for, if ever.
        segments: All that will be asked for.
    """

    def __init__(self, files: Callable[[], DataFrame], segments: Iterable[Segment]) -> None:
        self._files, self._segments = files, tuple(segments)

    @cached_property
    def _listed(self) -> pa.Table:
        """``key`` of the segment and ``file_path`` of every file."""
        found = _files_of(self._files(), self._segments).toArrow()
        key = pc.binary_join_element_wise(found["date"], found["bucket"].cast(pa.string()), "/")
        return pa.table({"key": key, "file_path": found["file_path"]})

    def paths(self, segments: Iterable[Segment]) -> list[str]:
        """Places of the files that lie in some of the segments."""
        wanted = pa.array([f"{segment.date}/{segment.bucket}" for segment in segments], pa.string())
        found: list[str] = self._listed.filter(pc.is_in(self._listed["key"], wanted))["file_path"].to_pylist()
        return found


def left_files(rows: AffectedRows, plan: BackfillPlan, done: Iterable[Segment]) -> SegmentFiles:
    """Files of the segments that a plan writes anew as a whole, without those that are done."""
    finished, table = set(done), rows.target
    left = [s.segment for s in plan.segments if s.strategy is Strategy.OVERWRITE and s.segment not in finished]
    return SegmentFiles(
        lambda: move_to(rows.session, rows.tables.files(rows.cut.meta, table.table, table.snapshot_id)), left
    )


def run_part(rows: AffectedRows, branch: Branch, run: Run, part: Part, request: str, files: SegmentFiles) -> None:
    """Compute and commit one part.

    Args:
        rows: The affected rows.
        branch: The run's branch.
        run: The run.
        part: The part.
        request: What the run was asked to do.
        files: Of ``left_files``.
    """
    facts = {
        PART: encode_segments({rows.target.table: part.names}),
        REQUEST: request,
        BASE: str(run.base),
        RUN_ID: run.run_id,
    }
    values = rows.values().filter(F.expr(rows.tables.inside(rows.spec, part.names)))
    # A function may give any number of rows that are none of the table's.
    counted = rows.change.function is None or not rows.affected.everything
    few = counted and part.affected_rows <= MOST_COPIED and _is_narrow(values, rows.change.names)
    if part.strategy is Strategy.MERGE_ON_READ:
        changed = {c: NEW + c for c in rows.change.names}
        with _kept(values) if few else nullcontext():
            branch.merge(values, rows.target.keys, changed, part.names, facts)
    else:
        # The rows of the segments need not be sorted to find their new values.
        values = F.broadcast(values) if few else values
        # The files of at most MOST_SEGMENTS segments, all of which the commit names.
        touched = part.strategy is Strategy.COPY_ON_WRITE
        paths = _touched_files(rows, part) if touched else files.paths(part.names)
        _swap(rows, branch, run, part, values, facts, paths)


def _is_narrow(values: DataFrame, changed: Iterable[str]) -> bool:
    """Whether new values are of types of a fixed size."""
    wide = (StringType, BinaryType, ArrayType, MapType, StructType, VariantType)
    return not any(isinstance(values.schema[NEW + c].dataType, wide) for c in changed)


@contextmanager
def _kept(values: DataFrame) -> Iterator[None]:
    """New values computed before they are merged, so that their size is known.

    Spark's MERGE heeds no hint. For values whose size it guesses it shuffles all rows of the part's segments to find
    those that change; those that it knows to be few it copies to every task, and the rows stay where they are.
    """
    kept = values.persist()
    try:
        kept.count()
        yield
    finally:
        kept.unpersist()


def _swap(
    rows: AffectedRows,
    branch: Branch,
    run: Run,
    part: Part,
    values: DataFrame,
    facts: Mapping[str, str],
    paths: Sequence[str],
) -> None:
    """Overwrite or copy-on-write: the files' rows written anew, sorted, then exchanged for the files."""
    target = rows.target
    frame = rows.table(target.table).filter(F.expr(rows.tables.inside(rows.spec, part.names)))
    if part.strategy is Strategy.COPY_ON_WRITE:
        listed = F.broadcast(text_frame(rows.session, "_path", paths))
        frame = frame.select(*target.columns, rows.tables.file(rows.spec).alias(FILE))
        frame = frame.join(listed, F.col(FILE) == F.col("_path"), "left_semi")
    new = values.select(*target.keys, *(NEW + c for c in rows.change.names), F.lit(True).alias(HIT))
    joined = frame.select(*target.columns).join(new, list(target.keys), "left")
    changed = set(rows.change.names)
    result = joined.select(
        *(
            F.when(F.col(HIT), F.col(NEW + c)).otherwise(F.col(c)).alias(c) if c in changed else c
            for c in target.columns
        )
    )
    swap_rows(rows.tables, rows.spec, rows.session, branch, run, target, result, paths, facts)


def swap_rows(
    tables: TableFormat,
    spec: DatasetSpec,
    session: SparkSession,
    branch: Branch,
    run: Run,
    target: Target,
    result: DataFrame,
    paths: Sequence[str],
    facts: Mapping[str, str],
) -> None:
    """Write rows unseen, then put their files in place of others on the branch, in one commit."""
    table = TableSpec(role=TableRole.FEATURES, name=target.table, columns=target.columns, sort_columns=target.keys)
    # A name of its own, so that a look for its staged rows never finds those of another part.
    attempt = f"{run.attempt}/part-{uuid.uuid4().hex[:12]}"
    part_run = Run(run_id=run.run_id, job=run.job, attempt=attempt, base=run.base, part=True)
    staged = tables.stage(spec, table, move_to(run_session(session), result), part_run)
    reached(f"{run.job}:part-staged")
    branch.swap(staged, paths, facts)


def _files_of(files: DataFrame, segments: Iterable[Segment]) -> DataFrame:
    """Data files that lie in some segments: ``date``, ``bucket``, ``file_path``.

    Args:
        files: Of ``TableFormat.files``.
        segments: Which.
    """
    inside = inside_segments(segments, F.col("date"), F.col("bucket"))
    return files.filter((F.col("content") == 0) & inside).select("date", "bucket", "file_path")


def inside_segments(segments: Iterable[Segment], date_part: Column, bucket: Column) -> Column:
    """Whether a date part and a bucket are those of one of the segments."""
    buckets: dict[str, set[int]] = {}
    for segment in segments:
        buckets.setdefault(segment.date, set()).add(segment.bucket)
    inside = F.lit(False)
    for date, numbers in buckets.items():
        inside = inside | ((date_part == date) & bucket.isin(numbers))
    return inside


def _touched_files(rows: AffectedRows, part: Part) -> list[str]:
    """Places of the data files that hold affected rows of a part."""
    inside = inside_segments(part.names, F.col("date"), F.col("bucket"))
    found = rows.touched.filter(inside).select(F.col(FILE).alias("file_path")).toArrow()
    paths: list[str] = found["file_path"].to_pylist()
    return paths
