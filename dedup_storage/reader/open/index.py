"""The index of a section: which impressions belong to which request, from the key columns alone.

Read when a unit is opened. Everything after it (blocks, batches, steps, resume) is arithmetic on its lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.keys import match_keys, strictly_ascending
from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.errors import DuplicateRowsError, StorageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.reader.decode.event_rows import EventRows, Int32
from dedup_storage.reader.decode.files import DataFile, RowStream, row_bytes
from dedup_storage.reader.decode.merged import AnyUnit, MergedUnit
from dedup_storage.reader.decode.units import RequestUnit
from dedup_storage.reader.open.conditions import Condition, kept_rows
from dedup_storage.reader.open.divide import FileRuns, unit_runs
from dedup_storage.reader.open.events import EventScan, SectionEvents, index_events, ranked
from dedup_storage.reader.open.features import FeatureFiles, FeatureScan, index_all, units_of
from dedup_storage.reader.open.keys import FileKeys, KeyReader, KeyRuns, owners, take_rows
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.open.sections import Section
from dedup_storage.reader.open.twins import KeyDigests
from dedup_storage.reader.options import ReadOptions
from dedup_storage.reader.segment import SegmentKey, segment_text
from dedup_storage.sampling.select import Selector
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["SegmentIndexer"]

_TOKEN_ROWS = 1024


@dataclass(frozen=True)
class _Candidates:
    """Request rows of one segment, file after file.

    Attributes:
        files: Their files.
        keys: Keys of each file's rows.
        heads: Place in ``keys`` of each file's request rows.
        rows: Row in the file of each file's request rows.
        lengths: Rows of the run that each heads (flat layout).
        columns: Request key of all of them.
        bounds: (files + 1,) number of each file's first.
        first: For each the first of the same key; ``None`` when every key is there once.
        wanted: Which the filters keep; ``None`` for all.
        before: Of a part, keys of the rows before it that may be of its first user.
        runs: Runs of each sequence group.
    """

    files: Sequence[DataFile]
    keys: Sequence[FileKeys]
    heads: Sequence[Int64]
    rows: Sequence[Int64]
    lengths: Sequence[Int64]
    columns: Sequence[pa.Array]
    bounds: Int64
    first: Int64 | None
    wanted: npt.NDArray[np.bool_] | None
    before: pa.Table | None = None
    runs: tuple[pa.ChunkedArray, ...] = ()

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """Which of them are requests to deliver."""
        keep = np.ones(int(self.bounds[-1]), dtype=np.bool_) if self.wanted is None else self.wanted.copy()
        if self.first is not None:
            keep &= self.first == np.arange(len(keep))
        return keep


@dataclass(frozen=True)
class SegmentIndexer:
    """Indexes segments of one dataset.

    Attributes:
        spec: The dataset.
        options: What is read.
        requests: Scan of the table with the request columns.
        impressions: Scan of the table with the impression columns; the same one in flat layout.
        request_columns: Columns to decode of the requests.
        impression_columns: Columns to decode of the impressions.
        features: Feature groups to join.
        selector: Which users a sample holds.
        pruned: Whether filters have left files out.
        found_users: Of the users that the filters name, those that have requests; filled while segments are indexed.
        conditions: What is asked of columns.
        condition_scans: Scans of the feature groups that hold some of these columns, by table.
        digests: Which files of feature groups have the same keys; filled while segments are indexed.
        events: Sequence groups whose lists are runs of events.
    """

    spec: DatasetSpec
    options: ReadOptions
    requests: TableScan
    impressions: TableScan
    request_columns: tuple[str, ...]
    impression_columns: tuple[str, ...]
    features: tuple[FeatureScan, ...] = ()
    selector: Selector | None = None
    conditions: tuple[Condition, ...] = ()
    condition_scans: Mapping[str, TableScan] = field(default_factory=dict)
    pruned: bool = False
    found_users: set[int | str] = field(default_factory=set)
    digests: KeyDigests = field(default_factory=KeyDigests)
    events: tuple[EventScan, ...] = ()

    def _own(self, grain: Grain) -> tuple[Condition, ...]:
        """Conditions on the log's own columns of a grain."""
        return tuple(c for c in self.conditions if c.grain is grain and c.table.name not in self.condition_scans)

    @property
    def flat(self) -> bool:
        """Whether both grains share one table."""
        return self.spec.layout is Layout.FLAT

    @property
    def key_reader(self) -> KeyReader:
        """Reads keys."""
        return KeyReader(self.spec, self.options.filters, self.selector, self._own(Grain.REQUEST))

    def index(self, section: Section) -> Sequence[AnyUnit]:
        """The units of one section as they were planned; one without any request to deliver is empty.

        Raises:
            DuplicateRowsError: two request rows have one key.
            StorageError: a file cannot be read, or impressions have no request.
        """
        found = self._candidates(section)
        runs, lengths = self._runs(section, found)
        features = index_all(self.features, self.key_reader, section, found.columns, self.digests)
        return self._units(section, found, runs, lengths, features)

    def check_segments(self) -> None:
        """Refuse segments that have impressions and no request file at all.

        Raises:
            StorageError: names the first.
        """
        for segment, files in self.impressions.segments.items():
            if segment not in self.requests.segments:
                self._orphans(segment, files)

    def _candidates(self, section: Section) -> _Candidates:
        key, reader, segment = self.spec.request_key, self.key_reader, section.segment
        files = list(dict.fromkeys(unit.file for unit in section.units))
        chosen = self._own(Grain.IMPRESSION) if self.flat else ()
        runs = [each.group.runs_column for each in self.events]
        extra, own = [*(c.column for c in (*reader.conditions, *chosen)), *runs], self.request_columns
        before: pa.Table | None = None
        if section.users is None:
            keys = [reader.read(self.requests.ref, file, extra, own) for file in files]
        else:
            unit = section.units[0]
            read = reader.read(self.requests.ref, unit.file, extra, own, (section.first, unit.stop))
            ahead = unit.start - section.first
            before = read.table.slice(0, ahead)
            keys = [FileKeys(read.table.slice(ahead), read.positions[ahead:], read.row_bytes)]
        if self.flat:
            keys = [k.where(kept_rows(k.table, chosen)) for k in keys]
            heads, rows, lengths = (list(part) for part in zip(*(k.runs(key) for k in keys), strict=True))
        else:
            heads = [np.arange(k.table.num_rows, dtype=np.int64) for k in keys]
            rows, lengths = [k.positions for k in keys], []
        tables = [take_rows(k.table, h) for k, h in zip(keys, heads, strict=True)]
        together = pa.concat_tables(tables, promote_options="permissive")
        columns = [single_chunk(together[k]) for k in key]
        first = None
        if not strictly_ascending(columns):
            matched = match_keys(columns, columns)
            twice = int(np.count_nonzero(matched != np.arange(len(matched))))
            first = matched if twice else None
            if not self.flat:
                self._repeated(segment, twice)
        if before is not None and section.users is not None and before.num_rows:
            self._repeated(segment, self._shared(before, together, section.users.low))
        bounds = offsets_from_lengths([t.num_rows for t in tables])
        wanted = self._wanted_by_features(section, columns, reader.wanted(together))
        if self.options.filters.users is not None and wanted is not None:
            self.found_users.update(pc.unique(columns[0].filter(pa.array(wanted))).to_pylist())
        listed = tuple(together[column] for column in runs)
        return _Candidates(files, keys, heads, rows, lengths, columns, bounds, first, wanted, before, listed)

    def _shared(self, before: pa.Table, own: pa.Table, border: Any) -> int:
        """How many of the requests have a key that a row before them has: only the user on the border can."""
        user, key = self.spec.schema_.user, list(self.spec.request_key)
        left, right = (t.filter(pc.equal(t[user], pa.scalar(border, t[user].type))).select(key) for t in (before, own))
        return int(np.count_nonzero(match_keys(left.columns, right.columns) >= 0)) if left.num_rows else 0

    def _repeated(self, segment: SegmentKey, count: int) -> None:
        if count:
            raise DuplicateRowsError(
                f"{counted(count, 'request row', 'repeats')} the key of another, in {segment_text(segment)}",
                expected="one row per request",
                fix="Write the segment again.",
            )

    def _wanted_by_features(
        self, section: Section, columns: Sequence[pa.Array], wanted: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.bool_] | None:
        """Which candidates are kept by conditions on columns of feature groups too."""
        for name, scan in self.condition_scans.items():
            asked = tuple(c for c in self.conditions if c.table.name == name)
            tables, owners = [], []
            for file in scan.segments.get(section.segment, ()):
                keys = self.key_reader.read(scan.ref, file, [c.column for c in asked])
                tables.append(keys.table)
                owners.append(match_keys(columns, [single_chunk(keys.table[k]) for k in self.spec.request_key]))
            place = np.full(len(columns[0]), -1, dtype=np.int64)
            owner = np.concatenate(owners) if owners else np.empty(0, dtype=np.int64)
            place[owner[owner >= 0]] = np.flatnonzero(owner >= 0)
            # A request without a row in the group has null there, as it is delivered.
            rows = pa.array(place, mask=place < 0)
            types = {c.column: c.type_ for c in asked}
            empty = pa.table({column: pa.array([], type_) for column, type_ in types.items()})
            found = pa.concat_tables([empty, *(t.select(list(types)) for t in tables)], promote_options="permissive")
            kept = kept_rows(found.take(rows), asked)
            wanted = kept if wanted is None or kept is None else wanted & kept
        return wanted

    def _runs(self, section: Section, found: _Candidates) -> tuple[list[FileRuns], Int64]:
        """Runs of every impression file, owned by candidates; and the impressions of each candidate."""
        runs = []
        own = self.impression_columns
        if self.flat:
            for place, file in enumerate(found.files):
                numbers = np.arange(found.bounds[place], found.bounds[place + 1], dtype=np.int64)
                owner = numbers if found.first is None else found.first[numbers]
                size = row_bytes(self.impressions.ref, file, own)
                runs.append(FileRuns(file, found.rows[place], found.lengths[place], owner, size))
        else:
            asked = self._own(Grain.IMPRESSION)
            for file in self.impressions.segments.get(section.segment, ()):
                read = self.key_reader.runs(self.impressions.ref, file, asked, own, section.users)
                owner = owners(found.columns, [read.keys[k] for k in self.spec.request_key])
                there = owner >= 0
                if not np.all(there):
                    alone = read.where(~there)
                    count = int(alone.sizes[self._orphaned(section, found, alone)].sum())
                    self._orphans(section.segment, (file,), count)
                runs.append(FileRuns(file, read.starts[there], read.sizes[there], owner[there], read.row_bytes))
        lengths = np.zeros(int(found.bounds[-1]), dtype=np.int64)
        for run in runs:
            np.add.at(lengths, run.owners, run.lengths)
        return runs, lengths

    def _orphaned(self, section: Section, found: _Candidates, alone: KeyRuns) -> npt.NDArray[np.bool_]:
        """Which runs that no candidate owns have no request in another section either.

        A user on the border of two parts counts for the one that has the user's last requests.
        """
        orphaned = np.ones(len(alone.starts), dtype=np.bool_)
        if section.users is None:
            return orphaned
        users = alone.keys[self.spec.schema_.user]
        if section.users.low is not None:
            low = pa.scalar(section.users.low, users.type)
            inside = np.asarray(pc.greater(users, low).to_numpy(), dtype=np.bool_)
            if found.before is not None and found.before.num_rows:
                key = self.spec.request_key
                known = match_keys([found.before[k] for k in key], [alone.keys[k] for k in key]) >= 0
                inside |= np.asarray(pc.equal(users, low).to_numpy(), dtype=np.bool_) & ~known
            orphaned &= inside
        if section.users.high is not None:
            orphaned &= np.asarray(pc.less(users, pa.scalar(section.users.high, users.type)).to_numpy(), dtype=np.bool_)
        return orphaned

    def _orphans(self, segment: SegmentKey, files: Sequence[DataFile], rows: int | None = None) -> None:
        count = sum(f.rows for f in files) if rows is None else rows
        # Files of the requests may have been pruned, so with filters there is no telling.
        if count == 0 or self.options.orphans == "skip" or self.pruned:
            return
        raise StorageError(
            f"{counted(count, 'impression', 'has')} no request, in the file {files[0].path}",
            expected=f"a request of each in the segment {segment_text(segment)}",
            fix="Write the segment again, or open the reader with orphans='skip'.",
        )

    def _units(
        self,
        section: Section,
        found: _Candidates,
        runs: Sequence[FileRuns],
        lengths: Int64,
        features: Sequence[FeatureFiles],
    ) -> Sequence[AnyUnit]:
        keep = found.keep
        if self._own(Grain.IMPRESSION):
            keep &= lengths > 0
        users, numbers = found.columns[0], None
        if self.options.together > 1 or section.merged:
            numbers = ranked(users)[0]
        events = [
            index_events(e, section.segment, users, r, keep) for e, r in zip(self.events, found.runs, strict=True)
        ]
        units, delivered = [], []
        for unit in section.units:
            place = found.files.index(unit.file)
            base, rows = int(found.bounds[place]), found.rows[place]
            low, high = (base + int(np.searchsorted(rows, row)) for row in (unit.start, unit.stop))
            kept = np.flatnonzero(keep[low:high])
            chosen = rows[low - base + kept]
            local = np.full(high - low, -1, dtype=np.int64)
            local[kept] = np.arange(len(kept))
            counts = lengths[low:high][kept].astype(np.int32)
            measured = self.options.tokens is not None
            own = tuple(each.unit(low + kept) for each in events) if measured or not section.merged else ()
            # Of a merged unit the lists are read in its own order.
            lists = () if section.merged else own
            delivered.append(low + kept)
            gapless = len(chosen) == 0 or int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen)
            units.append(
                RequestUnit(
                    segment=section.segment,
                    file=unit.file,
                    first=int(chosen[0]) if len(chosen) else unit.start,
                    rows=None if gapless else chosen,
                    lengths=counts,
                    impressions=tuple(unit_runs(runs, low, high, local, counts)),
                    features=units_of(features, low, high, local),
                    request_bytes=found.keys[place].row_bytes + sum(each.request_bytes for each in lists),
                    impression_bytes=runs[0].row_bytes if runs else 0.0,
                    tokens=self._tokens(unit.file, chosen, own),
                    weights=self._weights(found, low + kept),
                    events=lists,
                    users=None if numbers is None else numbers[low + kept],
                )
            )
        if section.merged and numbers is not None:
            return [_merged(units, delivered, numbers, events)]
        return units

    def _weights(self, found: _Candidates, chosen: Int64) -> npt.NDArray[np.float64] | None:
        """What each request's user stands for in a sample."""
        return None if self.selector is None else self.selector.weigh(found.columns[0].take(pa.array(chosen)))

    def _tokens(self, file: DataFile, rows: Int64, lists: Sequence[EventRows]) -> Int64 | None:
        """Elements of the list column that batches are measured in, as they are delivered."""
        column = self.options.tokens
        if column is None:
            return None
        group = next((n for n, each in enumerate(self.events) if column in each.group.columns), None)
        if group is None:
            return self._stored_tokens(file, rows, column)
        counts = lists[group].tokens
        listed = np.flatnonzero(lists[group].listed)
        counts[listed] = self._stored_tokens(file, rows[listed], column)
        return counts

    def _stored_tokens(self, file: DataFile, rows: Int64, column: str) -> Int64:
        """Elements of lists of the requests' own table."""
        ref = self.requests.ref
        stream, found = RowStream(ref.file_io(), ref, file, [column]), []
        try:
            for start in range(0, len(rows), _TOKEN_ROWS):
                lists = stream.take(rows[start : start + _TOKEN_ROWS])[column]
                found.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64))
        finally:
            stream.close()
        counts = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
        most = self.options.history_length
        if most is None or column not in self.spec.schema_.sequence_columns:
            return counts
        return np.minimum(counts, most)


def _merged(
    units: Sequence[RequestUnit], delivered: Sequence[Int64], users: Int32, events: Sequence[SectionEvents]
) -> MergedUnit:
    """Units as one, user by user and for each in the order of the files."""
    rows = np.concatenate(delivered)
    part = np.repeat(np.arange(len(units), dtype=np.int32), [len(own) for own in delivered])
    order = np.argsort(users[rows], kind="stable")
    rows = rows[order]
    return MergedUnit(tuple(units), part[order], users[rows], tuple(each.unit(rows) for each in events))
