"""Which lists of a log belong to events, found on a part of its users: what layout ``user`` stores once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.gather import parallel_rows
from dedup_storage.dedup.hashing import hash_column
from dedup_storage.errors import SchemaError
from dedup_storage.event_groups import ProposedGroup
from dedup_storage.report.estimate.grain_plan import GrainPlan, plan_history
from dedup_storage.report.estimate.histories import History, request_histories, sequence_groups
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from dedup_storage.windows.model import Bools

__all__ = ["groups_of", "propose_groups"]

# Users that are looked at, requests of each, and tokens of one column of all of them.
_USERS, _REQUESTS, _TOKENS = 128, 64, 400_000
# Of a column that goes up along a list so many of the values are no less than the one before.
_GOES_UP = 0.99
_ORDERED = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_temporal,
    pa.types.is_string,
    pa.types.is_large_string,
)
_HASH, _ORDER, _TOKEN_SUM = "_dedup_hash", "_dedup_order", "_dedup_tokens"


def propose_groups(raw: RawLog, schema: LogSchema) -> tuple[ProposedGroup, ...]:
    """The log's sequence groups as ``estimate`` reads them: columns of the event, and where new events come.

    Columns that depend on the request are in no group: they stay lists of the request. So do lists that are no windows,
    which would make users' lists as long as the log, and each write read all of them.

    Args:
        raw: The log.
        schema: Its meaning.

    Raises:
        SchemaError: the schema names no sequences.
    """
    if not schema.sequences:
        raise SchemaError(
            "layout user needs history lists, and the schema names none",
            expected="sequences: [{column: NAME}]",
            fix="Name the history lists, or choose layout split.",
        )
    # A part of some users, bounded in users, requests and tokens.
    return groups_of(_probe(raw, schema).toArrow(), schema)


def groups_of(rows: pa.Table, schema: LogSchema) -> tuple[ProposedGroup, ...]:
    """The groups of some request rows.

    Args:
        rows: (n,) keys, event time and lists of requests; none where no user has two requests.
        schema: Their meaning.

    Returns:
        Groups of which each event is to be stored once; none of lists that do not go on from request to request.
    """
    users = hash_column(rows[schema.user])
    keys = [schema.user, *([schema.event_time] if schema.event_time else []), *schema.request]
    ranks = [pc.rank(rows[k], sort_keys="ascending", tiebreaker="dense").to_numpy(zero_copy_only=False) for k in keys]
    order = np.lexsort([*reversed(ranks), users]).astype(np.int64)
    found = []
    for group, members in sequence_groups(schema).items():
        lists = rows.select(members)
        # Requests whose lists of the group do not run in parallel keep them, and tell nothing of the others.
        parallel = parallel_rows(lists.columns)
        rest = order[parallel[order]] if 2 * int(parallel.sum()) >= len(parallel) else order
        of_group = schema.model_copy(update={"sequences": tuple(s for s in schema.sequences if s.column in members)})
        for history in request_histories(of_group, lists, users, rest):
            plan = plan_history(history)
            if not plan.slides:
                continue
            name = history.name if history.name == group else history.columns[0]
            found.append(ProposedGroup(name, plan.events, bool(plan.newest_first), _dictionaries(history, plan)))
    return tuple(found)


def _dictionaries(history: History, plan: GrainPlan) -> tuple[str, ...]:
    """Columns of the event that keep their dictionary: all that do not go up along users' lists, as times do."""
    lists = plan.lists(history)
    last = np.flatnonzero(np.diff(lists.users, append=-1))
    at, ends = ranges(lists.offsets[last], lists.lengths[last]), np.cumsum(lists.lengths[last])
    inside = np.ones(len(at), dtype=np.bool_)
    inside[ends[ends < len(at)]] = False
    return tuple(name for name, values in lists.columns.items() if not _goes_up(values.take(pa.array(at)), inside[1:]))


def _goes_up(values: pa.Array, inside: Bools) -> bool:
    """Whether nearly all values are as much as the one before, and not all the same.

    Args:
        values: (n,) the lists of some users, oldest event first.
        inside: (n - 1,) whether a value and the next one are of one list.
    """
    ordered = any(kind(values.type) for kind in _ORDERED)
    if not ordered or not inside.any():
        return False
    before, after = values[:-1], values[1:]
    risen, kept = (
        pc.fill_null(compare(after, before), False).to_numpy(zero_copy_only=False)[inside].mean()
        for compare in (pc.greater, pc.greater_equal)
    )
    return bool(kept >= _GOES_UP and risen > 1 - _GOES_UP)


def _probe(raw: RawLog, schema: LogSchema) -> DataFrame:
    """Request rows of some users with several requests: keys, event time, lists."""
    keys, user = list(schema.request_key), schema.user
    times = [schema.event_time] if schema.event_time else []
    lists = [s.column for s in schema.sequences]
    frame = raw.request_rows()
    # Keys alone are read to find the users.
    several = frame.select(*keys).distinct().groupBy(user).count().filter("count > 1").select(user)
    users = several.orderBy(F.xxhash64(user)).limit(_USERS)
    rows = frame.select(*dict.fromkeys([*keys, *times, *lists])).join(F.broadcast(users), user, "left_semi")
    order = Window.partitionBy(user).orderBy(*times, *schema.request)
    rows = rows.dropDuplicates(keys).withColumn(_ORDER, F.row_number().over(order)).filter(F.col(_ORDER) <= _REQUESTS)
    size = F.greatest(*(F.coalesce(F.array_size(c), F.lit(0)) for c in lists), F.lit(0))
    whole = Window.orderBy(F.xxhash64(user), user, _ORDER).rowsBetween(Window.unboundedPreceding, 0)
    rows = rows.withColumn(_TOKEN_SUM, F.sum(size).over(whole)).filter(F.col(_TOKEN_SUM) <= _TOKENS)
    return rows.drop(_ORDER, _TOKEN_SUM)
