"""The parts of an explanation of joins: plain values, for people and for JSON."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["Cause", "ExplainedJoin", "Frozen", "JoinSide", "PlanStep", "Reason", "StepKind"]


class Cause(StrEnum):
    """Why a join does not stay inside its buckets, or is slower than it could be."""

    SETTING = "missing setting"
    NOT_ICEBERG = "not an Iceberg table"
    DELTA = "a Delta table"
    UNBUCKETED = "one side is not bucketed"
    EMPTY = "an empty side"
    BUCKETS = "different bucket counts"
    TYPES = "different types"
    TRANSFORMS = "different partitions"
    NOT_A_KEY = "a partition column is no join key"
    SPEC_CHANGED = "the partition spec changed"
    COMPUTED_KEY = "a computed key"
    BROADCAST = "a small-looking side is broadcast"
    REARRANGED = "rows were rearranged before the join"
    PLUGIN = "a plugin that loses rows"
    SKEW = "skewed buckets"
    UNKNOWN = "not known"


class StepKind(StrEnum):
    """What costs time besides reading."""

    SHUFFLE = "shuffle"
    BROADCAST = "broadcast"
    SORT = "sort"


class Frozen(BaseModel):
    """Values that neither change nor take further fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reason(Frozen):
    """One reason in plain words.

    Attributes:
        cause: Its kind.
        text: What is the case.
        fix: What to do about it.
        blocks: Whether it is why rows move; otherwise it only costs time.
    """

    cause: Cause
    text: str
    fix: str
    blocks: bool = True


class JoinSide(Frozen):
    """One input of a join.

    Attributes:
        tables: Iceberg tables it reads, with their catalog, and Delta tables by their folder.
        partitions: Partition fields of the first table, such as ``bucket[16] of user_id``.
        buckets: Bucket count of the table, when it has one.
        columns: Columns read.
        rows: Rows of the snapshots read, before filters.
        stored_bytes: Bytes on disk of the columns read (compressed).
        row_bytes: The same as Spark's rows, uncompressed: 8 bytes a value and the lists' elements; an estimate.
        files: Data files of the snapshots read.
        skew: Bytes of the largest bucket over those of the median one.
    """

    tables: tuple[str, ...]
    partitions: tuple[str, ...] = ()
    buckets: int | None = None
    columns: tuple[str, ...] = ()
    rows: int | None = None
    stored_bytes: int | None = None
    row_bytes: int | None = None
    files: int | None = None
    skew: float | None = None


class PlanStep(Frozen):
    """One shuffle, broadcast or sort of a plan, deepest first.

    Attributes:
        kind: Which.
        detail: By what, such as ``hashpartitioning(user_id, 200)``.
        tables: Tables whose rows pass through it.
        rows: Rows at most, before filters.
        stored_bytes: What those columns need on disk.
        row_bytes: What passes through at most, uncompressed; an estimate.
    """

    kind: StepKind
    detail: str
    tables: tuple[str, ...]
    rows: int | None = None
    stored_bytes: int | None = None
    row_bytes: int | None = None


class ExplainedJoin(Frozen):
    """One join of a plan.

    Attributes:
        how: ``inner``, ``left``, …
        algorithm: Spark's operator, such as ``SortMergeJoin``.
        on: Join keys.
        shuffle_free: Neither side is shuffled or broadcast.
        left, right: Its inputs.
        reasons: Why not, and what else costs time.
    """

    how: str
    algorithm: str
    on: tuple[str, ...]
    shuffle_free: bool
    left: JoinSide
    right: JoinSide
    reasons: tuple[Reason, ...] = ()
