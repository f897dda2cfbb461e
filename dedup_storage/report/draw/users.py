"""A draw of whole users, held collapsed: request rows once, impression rows, and the index between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup import gather, gather_table, match_keys, ranges, run_starts
from dedup_storage.dedup.expand import newest
from dedup_storage.dedup.hashing import Hashes, combine, hash_column
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import InputError, SchemaError, StorageError
from dedup_storage.schema import Grain, LogSchema

__all__ = ["PLACE", "LogDraw", "from_flat", "from_frames", "require_sequences", "uniform"]

_BATCH_BYTES = 32 * 1024**2
_POSITION = "position"
# Columns of rows that were drawn elsewhere: their file's number or hash, and their row in it.
PLACE = ("_dedup_file", "_dedup_row")


@dataclass(frozen=True)
class LogDraw:
    """Rows of whole users.

    Attributes:
        schema: With the grain of every column declared.
        requests: (num_requests,) request keys and request-grain columns, sorted by request key.
        impressions: (num_impressions,) impression-grain columns with the position, sorted by request and position.
        inverse: (num_impressions,) int64, request row of each impression row.
        arrival: (num_impressions,) int64, impression rows in their order of arrival.
        users: (num_requests,) hash of each request's user.
        share: Share of all users that was asked for; 1 means every row.
        position: Name of the position column.
    """

    schema: LogSchema
    requests: pa.Table
    impressions: pa.Table
    inverse: Int64
    arrival: Int64
    users: Hashes
    share: float
    position: str

    @property
    def num_requests(self) -> int:
        """R."""
        return int(self.requests.num_rows)

    @property
    def num_impressions(self) -> int:
        """B."""
        return int(self.impressions.num_rows)

    @property
    def num_users(self) -> int:
        """Users in the draw."""
        return len(np.unique(self.users))

    @property
    def columns(self) -> list[str]:
        """Columns of the flat log, the assigned position left out."""
        own = [c for c in self.impressions.column_names if c != self.position or self.schema.position == c]
        return [*self.requests.column_names, *own]

    def flat(self, order: Int64) -> Iterator[pa.RecordBatch]:
        """Rows of the flat log in the given order, batch by batch, never all at once.

        Args:
            order: (n,) int64 impression rows.
        """
        per_row = max(1, self.requests.nbytes // max(1, self.num_requests))
        step = int(np.clip(_BATCH_BYTES // per_row, 16, 65_536))
        for start in range(0, len(order), step):
            yield from self._flat_rows(order[start : start + step]).to_batches()

    def flat_schema(self) -> pa.Schema:
        """Schema of ``flat``."""
        return self._flat_rows(np.empty(0, dtype=np.int64)).schema

    def _flat_rows(self, rows: Int64) -> pa.Table:
        shown = self.columns
        right = self.impressions.select([c for c in self.impressions.column_names if c in shown])
        return _joined(gather_table(self.requests, self.inverse[rows]), gather_table(right, rows))

    def impression_table(self) -> pa.Table:
        """The impression rows with their request keys: what a split dataset's impressions table holds."""
        keys = gather_table(self.requests.select(list(self.schema.request_key)), self.inverse)
        return _joined(keys, self.impressions)

    def part(self, chosen: np.ndarray) -> LogDraw:
        """The draw's rows of some requests.

        Args:
            chosen: (num_requests,) bool; whole users, so that a part is a smaller draw.
        """
        rows = np.flatnonzero(chosen)
        keep = chosen[self.inverse]
        renumbered = np.cumsum(chosen) - 1
        kept = np.flatnonzero(keep)
        order = self.arrival[keep[self.arrival]]
        back = np.cumsum(keep) - 1
        return replace(
            self,
            requests=gather_table(self.requests, rows),
            impressions=gather_table(self.impressions, kept),
            inverse=renumbered[self.inverse[kept]].astype(np.int64),
            arrival=back[order].astype(np.int64),
            users=self.users[rows],
        )

    def groups(self, count: int) -> list[LogDraw]:
        """Random groups of whole users, empty ones left out; each is a draw of its own, smaller share."""
        # Another hash than the one that chose the users, which would give groups a common prefix.
        numbers = mix64(mix64(self.users)) % np.uint64(count)
        chosen = [numbers == np.uint64(g) for g in range(count)]
        return [replace(self.part(c), share=self.share / count) for c in chosen if np.any(c)]


def from_frames(
    schema: LogSchema,
    requests: pa.Table,
    impressions: pa.Table,
    *,
    share: float = 1.0,
    position: str | None = None,
    arrived: bool = False,
) -> LogDraw:
    """Build a draw from request rows and impression rows.

    Args:
        schema: With every column's grain declared.
        requests: Request keys and request-grain columns; of several rows with one key the first counts.
        impressions: Request keys and impression-grain columns.
        share: Share of the users that was asked for.
        position: The position column, if ``impressions`` has one.
        arrived: The impression rows stand in order of arrival; otherwise event time gives it, where there is one.

    Raises:
        InputError: there are no rows.
        StorageError: an impression has no request.
    """
    if requests.num_rows == 0 or impressions.num_rows == 0:
        raise InputError("the log has no rows to measure", expected="at least one request with one impression")
    keys = list(schema.request_key)
    order = pc.sort_indices(requests.select(keys), [(k, "ascending") for k in keys]).to_numpy()
    requests = gather_table(requests, order.astype(np.int64))
    starts = run_starts([requests[k] for k in keys])
    requests = gather_table(requests, starts) if len(starts) < requests.num_rows else requests
    inverse = match_keys([requests[k] for k in keys], [impressions[k] for k in keys])
    for sequence in schema.sequences:
        if sequence.longer == "newest" and sequence.column in requests.column_names:
            place = requests.column_names.index(sequence.column)
            cut = newest(requests[sequence.column], int(sequence.max_length or 0))
            requests = requests.set_column(place, sequence.column, cut)
    if np.any(inverse < 0):
        raise StorageError("an impression has no request", fix="Run dedup-storage check on the dataset.")
    impressions = impressions.drop_columns(keys)
    if position is None:
        ordered = np.argsort(inverse, kind="stable")
    else:
        ordered = np.lexsort((gather(impressions[position], np.arange(len(inverse))).to_numpy(False), inverse))
    inverse = inverse[ordered]
    impressions = gather_table(impressions, ordered)
    if position is None:
        position = (
            _POSITION if _POSITION not in (*requests.column_names, *impressions.column_names) else "_" + _POSITION
        )
        counts = np.bincount(inverse, minlength=requests.num_rows)
        ordinals = ranges(np.zeros_like(counts), counts).astype(np.int32)
        impressions = impressions.append_column(position, pa.array(ordinals))
    arrival = np.empty(len(ordered), dtype=np.int64)
    arrival[ordered] = np.arange(len(ordered))
    if not arrived and schema.event_time is not None:
        arrival = np.argsort(_ranks(requests[schema.event_time])[inverse], kind="stable").astype(np.int64)
    users = hash_column(requests[schema.user])
    return LogDraw(schema, requests, impressions, inverse, arrival, users, share, position)


def from_flat(
    schema: LogSchema,
    batches: Iterator[pa.Table] | Sequence[pa.Table],
    *,
    share: float = 1.0,
    files: Mapping[int, int] | None = None,
) -> LogDraw:
    """Collapse flat rows, given in order of arrival, while they stream in; each request's history is kept once.

    Args:
        schema: Columns without a declared grain are detected: constant inside every request is request-grain.
        batches: Rows of whole users; together at least one row.
        share: Share of the users that was asked for.
        files: The rows stand in any order and carry their ``PLACE``: hash of a file -> its number in order of arrival.

    Raises:
        InputError: there are no rows.
    """
    keys = list(schema.request_key)
    declared = schema.declared_grains()
    seen: Hashes = np.empty(0, dtype=np.uint64)
    requests: list[pa.Table] = []
    impressions: list[pa.Table] = []
    for table in batches:
        if table.num_rows == 0:
            continue
        of_request = [c for c in table.column_names if declared.get(c) is Grain.REQUEST]
        others = [c for c in table.column_names if c not in of_request]
        hashes = combine([hash_column(table[k]) for k in keys])
        unique, first = np.unique(hashes, return_index=True)
        new = np.sort(first[~np.isin(unique, seen)]).astype(np.int64)
        seen = np.union1d(seen, unique)
        requests.append(uniform(gather_table(table.select(of_request), new)))
        impressions.append(uniform(table.select([*keys, *others])))
    if not requests:
        raise InputError("the log has no rows to measure", expected="at least one request with one impression")
    draw = from_frames(
        schema,
        pa.concat_tables(requests),
        pa.concat_tables(impressions),
        share=share,
        position=schema.position,
        arrived=True,
    )
    return _with_detected(draw if files is None else _by_place(draw, files))


def _by_place(draw: LogDraw, files: Mapping[int, int]) -> LogDraw:
    """The order of arrival from the rows' places, which are then left out."""
    hashes, rows = (draw.impressions[c].to_numpy() for c in PLACE)
    known = np.array(sorted(files), dtype=np.int64)
    numbers = np.array([files[int(h)] for h in known])[np.searchsorted(known, hashes)]
    arrival = np.lexsort((rows, numbers)).astype(np.int64)
    return replace(draw, impressions=draw.impressions.drop_columns(list(PLACE)), arrival=arrival)


def _with_detected(draw: LogDraw) -> LogDraw:
    """Move columns that nobody declared and that are constant inside every request to the request rows."""
    declared = draw.schema.declared_grains()
    starts = np.searchsorted(draw.inverse, np.arange(draw.num_requests)).astype(np.int64)
    grains = dict(declared)
    requests, impressions = draw.requests, draw.impressions
    for name in impressions.column_names:
        if name in declared or name == draw.position:
            continue
        hashes = hash_column(impressions[name])
        constant = bool(np.all(hashes == hashes[starts][draw.inverse]))
        grains[name] = Grain.REQUEST if constant else Grain.IMPRESSION
        if constant:
            requests = requests.append_column(name, gather(impressions[name], starts))
            impressions = impressions.drop_columns([name])
    grains = {c: g for c, g in grains.items() if c in (*requests.column_names, *impressions.column_names)}
    return replace(draw, schema=draw.schema.with_grains(grains), requests=requests, impressions=impressions)


def _ranks(column: pa.ChunkedArray) -> Int64:
    """Order of a column's values, nulls last. (n,) int64."""
    ranks: Int64 = pc.rank(column, sort_keys="ascending", tiebreaker="dense").to_numpy(False)
    return ranks.astype(np.int64)


def uniform(table: pa.Table) -> pa.Table:
    """Lists as large lists: gathering makes them so or not, and pieces must agree."""
    fields = [
        pa.field(f.name, pa.large_list(f.type.value_field)) if pa.types.is_list(f.type) else f for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _joined(left: pa.Table, right: pa.Table) -> pa.Table:
    arrays = [*left.columns, *right.columns]
    return pa.Table.from_arrays(arrays, names=[*left.column_names, *right.column_names])


def require_sequences(schema: LogSchema, present: Sequence[str]) -> None:
    """Check that the log has sequence columns to speak of.

    Raises:
        SchemaError: the schema names none, or one that is not there.
    """
    schema.require_columns(present)
    if not schema.sequence_columns:
        raise SchemaError(
            "the schema names no sequence columns",
            expected="sequences: [{column: NAME}]",
            fix="Name the history lists; without them there is little to deduplicate.",
        )
