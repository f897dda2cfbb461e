"""Layout ``user``: the lists of a draw's requests, made again of their users' events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup import gather_table, inverse_from_lengths, match_keys, offsets_from_lengths, ranges, run_starts
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.errors import StorageError
from dedup_storage.layout import DatasetSpec, EventGroup
from dedup_storage.windows.model import Bools

__all__ = ["run_tokens", "with_lists"]


def with_lists(
    spec: DatasetSpec, requests: pa.Table, events: Mapping[str, pa.Table], *, repeated: bool = False
) -> pa.Table:
    """Request rows with the lists that were logged, in place of their runs.

    Args:
        spec: The dataset.
        requests: (n,) rows of its table of requests, with the user, list columns and runs.
        events: Group -> rows of its table of events, of the same users at least, in any order.
        repeated: Deletion vectors hide rows that lie in the files all the same: of several events at one place of a
            user's list the first counts, which is near enough for what is counted.

    Raises:
        StorageError: an event that a request refers to is not there, or is there twice.
    """
    for group in spec.events:
        lists = _Lists.of(spec, group, events[group.name], repeated=repeated)
        for name, column in lists.columns_of(requests).items():
            requests = requests.set_column(requests.column_names.index(name), name, column)
    return requests.drop_columns(list(spec.runs_columns))


def run_tokens(runs: pa.ChunkedArray) -> int:
    """Elements of the lists that some requests' runs stand for."""
    lengths = pc.struct_field(pc.list_flatten(runs), "length")
    return int(pc.sum(lengths).as_py() or 0)


class _Lists:
    """The lists of some users, one after the other.

    Args:
        spec: The dataset.
        group: The group.
        events: Its events by user and position.
        offsets: (users + 1,) where each user's begin.
        positions: (events,) their places in the users' lists, which may have gaps.
    """

    def __init__(
        self, spec: DatasetSpec, group: EventGroup, events: pa.Table, offsets: Int64, positions: Int64
    ) -> None:
        self._spec, self._group, self._events, self._offsets = spec, group, events, offsets
        self._positions = positions

    @classmethod
    def of(cls, spec: DatasetSpec, group: EventGroup, events: pa.Table, *, repeated: bool) -> _Lists:
        """Put events in order, and see that each stands at a position of its own."""
        keys = [spec.schema_.user, group.position_column]
        order = pc.sort_indices(events.select(keys), [(key, "ascending") for key in keys]).to_numpy()
        events = gather_table(events, order.astype(np.int64))
        if repeated:
            events = gather_table(events, run_starts([events[key] for key in keys]))
        offsets = np.append(run_starts([events[keys[0]]]), events.num_rows).astype(np.int64)
        found = events[group.position_column].cast(pa.int64())
        if found.null_count:
            raise _incomplete(spec, group)
        positions = found.to_numpy()
        same = np.ones(len(positions), dtype=np.bool_)
        same[offsets[:-1]] = False
        if np.any(positions < 0) or np.any(same[1:] & (np.diff(positions) < 1)):
            raise _incomplete(spec, group)
        return cls(spec, group, events, offsets, positions)

    def columns_of(self, requests: pa.Table) -> dict[str, pa.Array]:
        """The group's list columns of some requests. Column -> (n,) lists."""
        runs = single_chunk(requests[self._group.runs_column])
        values, bounds = list_parts(runs)
        starts, lengths = (
            pc.struct_field(values, part).to_numpy(zero_copy_only=False).astype(np.int64)
            for part in ("start", "length")
        )
        rows = inverse_from_lengths(np.diff(bounds))
        places = self._places(requests, rows, starts, lengths)
        offsets = offsets_from_lengths(lengths)[bounds]
        if self._group.newest_first:
            places = places[_turned(offsets)]
        listed = runs.is_null().to_numpy(zero_copy_only=False)
        return {
            name: self._column(name, single_chunk(requests[name]), listed, places, np.diff(offsets))
            for name in self._group.columns
        }

    def _places(self, requests: pa.Table, rows: Int64, starts: Int64, lengths: Int64) -> Int64:
        """The event of each element, request by request, oldest first."""
        user = self._spec.schema_.user
        if not self._events.num_rows:
            if len(lengths) and lengths.max() > 0:
                raise _incomplete(self._spec, self._group)
            return np.empty(0, dtype=np.int64)
        users = gather_table(self._events.select([user]), self._offsets[:-1])
        owners = match_keys([users[user]], [requests[user]])[rows]
        some = lengths > 0
        if np.any((starts < 0) | (lengths < 0) | (some & (owners < 0))):
            raise _incomplete(self._spec, self._group)
        owners, starts, lengths = owners[some], starts[some], lengths[some]
        # One number for user and position: all events ascend by it.
        span = int(max(self._positions.max(), (starts + lengths).max(initial=0))) + 1
        numbers = inverse_from_lengths(np.diff(self._offsets)) * span + self._positions
        wanted = owners * span + starts
        first = np.searchsorted(numbers, wanted)
        last = np.minimum(first + lengths, len(numbers)) - 1
        if np.any(numbers[np.minimum(first, last)] != wanted) or np.any(numbers[last] != wanted + lengths - 1):
            raise _incomplete(self._spec, self._group)
        return ranges(first, lengths)

    def _column(self, name: str, own: pa.Array, listed: Bools, places: Int64, sizes: Int64) -> pa.Array:
        """A list column: of the events, and where a request has no runs as it stands."""
        elements, bounds = list_parts(own)
        events = single_chunk(self._events[name]).cast(own.type.value_type)
        lengths = np.where(listed, np.diff(bounds), sizes)
        offsets = offsets_from_lengths(lengths)
        chosen = np.empty(int(offsets[-1]), dtype=np.int64)
        chosen[ranges(offsets[:-1][~listed], lengths[~listed])] = places
        chosen[ranges(offsets[:-1][listed], lengths[listed])] = len(events) + ranges(
            bounds[:-1][listed], lengths[listed]
        )
        missing = listed & own.is_null().to_numpy(zero_copy_only=False)
        return pa.LargeListArray.from_arrays(
            pa.array(offsets), pa.concat_arrays([events, elements]).take(pa.array(chosen)),
            mask=pa.array(missing) if missing.any() else None,
        )  # fmt: skip


def _turned(offsets: Int64) -> Int64:
    """The elements of lists with the last of each first."""
    return np.repeat(offsets[:-1] + offsets[1:], np.diff(offsets)) - 1 - np.arange(offsets[-1])


def _incomplete(spec: DatasetSpec, group: EventGroup) -> StorageError:
    return StorageError(
        f"{group.table} of {spec.name} does not hold every event of a user once",
        expected=f"all events that {group.runs_column} names, each at a position of its own",
        fix="Another tool has changed its rows: restore the table, or roll back to the version before.",
    )
