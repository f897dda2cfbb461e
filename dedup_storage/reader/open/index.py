"""The index: which impressions belong to which request, from the key columns alone.

Read once when a dataset is opened. Everything after it (batches, steps, resume) is arithmetic on its lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from os import cpu_count

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.keys import match_keys, strictly_ascending
from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.errors import DuplicateRowsError, StorageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.reader.decode.files import DataFile, RowStream, row_bytes
from dedup_storage.reader.decode.units import RequestUnit
from dedup_storage.reader.open.conditions import Condition, kept_rows
from dedup_storage.reader.open.divide import FileRuns, cut_points, unit_runs
from dedup_storage.reader.open.features import FeatureFiles, FeatureScan, index_features
from dedup_storage.reader.open.keys import FileKeys, KeyReader, take_rows
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.options import ReadOptions
from dedup_storage.reader.segment import SegmentKey, segment_text
from dedup_storage.sampling.select import Selector
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["SegmentIndexer", "build_units"]

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
        found_users: Of the users that the filters name, those that have requests; filled while segments are indexed.
        conditions: What is asked of columns.
        condition_scans: Scans of the feature groups that hold some of these columns, by table.
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
    found_users: set[int | str] = field(default_factory=set)

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

    def index(self, segment: SegmentKey) -> list[RequestUnit]:
        """The units of one segment, in the order of its request files."""
        files = self.requests.segments.get(segment, ())
        if not files:
            self._orphans(segment, self.impressions.segments.get(segment, ()))
            return []
        found = self._candidates(segment, files)
        runs, lengths = self._runs(segment, found)
        features = [index_features(f, self.key_reader, segment, found.columns) for f in self.features]
        return self._units(segment, found, runs, lengths, features)

    def _candidates(self, segment: SegmentKey, files: Sequence[DataFile]) -> _Candidates:
        key, reader = self.spec.request_key, self.key_reader
        chosen = self._own(Grain.IMPRESSION) if self.flat else ()
        extra = [c.column for c in (*reader.conditions, *chosen)]
        keys = [reader.read(self.requests.ref, file, extra) for file in files]
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
            if twice and not self.flat:
                raise DuplicateRowsError(
                    f"{counted(twice, 'request row', 'repeats')} the key of another, in {segment_text(segment)}",
                    expected="one row per request",
                    fix="Write the segment again.",
                )
        bounds = offsets_from_lengths([t.num_rows for t in tables])
        wanted = self._wanted_by_features(segment, columns, reader.wanted(together))
        if self.options.filters.users is not None and wanted is not None:
            self.found_users.update(pc.unique(columns[0].filter(pa.array(wanted))).to_pylist())
        return _Candidates(files, keys, heads, rows, lengths, columns, bounds, first, wanted)

    def _wanted_by_features(
        self, segment: SegmentKey, columns: Sequence[pa.Array], wanted: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.bool_] | None:
        """Which candidates are kept by conditions on columns of feature groups too."""
        for name, scan in self.condition_scans.items():
            asked = tuple(c for c in self.conditions if c.table.name == name)
            tables, owners = [], []
            for file in scan.segments.get(segment, ()):
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

    def _runs(self, segment: SegmentKey, found: _Candidates) -> tuple[list[FileRuns], Int64]:
        """Runs of every impression file, owned by candidates; and the impressions of each candidate."""
        runs = []
        if self.flat:
            for place, file in enumerate(found.files):
                own = np.arange(found.bounds[place], found.bounds[place + 1], dtype=np.int64)
                owner = own if found.first is None else found.first[own]
                runs.append(
                    FileRuns(file, found.rows[place], found.lengths[place], owner, found.keys[place].group_starts)
                )
        else:
            key, reader, asked = self.spec.request_key, self.key_reader, self._own(Grain.IMPRESSION)
            for file in self.impressions.segments.get(segment, ()):
                keys = reader.read(self.impressions.ref, file, [c.column for c in asked])
                keys = keys.where(kept_rows(keys.table, asked))
                heads, starts, sizes = keys.runs(key)
                table = take_rows(keys.table, heads)
                owner = match_keys(found.columns, [table[k] for k in key])
                alone = owner < 0
                if np.any(alone):
                    self._orphans(segment, (file,), int(sizes[alone].sum()))
                    starts, sizes, owner = starts[~alone], sizes[~alone], owner[~alone]
                runs.append(FileRuns(file, starts, sizes, owner, keys.group_starts))
        lengths = np.zeros(int(found.bounds[-1]), dtype=np.int64)
        for run in runs:
            np.add.at(lengths, run.owners, run.lengths)
        return runs, lengths

    def _orphans(self, segment: SegmentKey, files: Sequence[DataFile], rows: int | None = None) -> None:
        count = sum(f.rows for f in files) if rows is None else rows
        # Files of the requests may have been pruned, so with filters there is no telling.
        if count == 0 or self.options.orphans == "skip" or not self.options.filters.is_empty:
            return
        raise StorageError(
            f"{counted(count, 'impression', 'has')} no request, in the file {files[0].path}",
            expected=f"a request of each in the segment {segment_text(segment)}",
            fix="Write the segment again, or open the reader with orphans='skip'.",
        )

    def _units(
        self,
        segment: SegmentKey,
        found: _Candidates,
        runs: Sequence[FileRuns],
        lengths: Int64,
        features: Sequence[FeatureFiles],
    ) -> list[RequestUnit]:
        keep = found.keep
        if self._own(Grain.IMPRESSION):
            keep &= lengths > 0
        per_impression = row_bytes(self.impressions.ref, runs[0].file, self.impression_columns) if runs else 0.0
        units = []
        for place, file in enumerate(found.files):
            low, high = int(found.bounds[place]), int(found.bounds[place + 1])
            per_request = row_bytes(self.requests.ref, file, self.request_columns)
            groups = found.keys[place].group_starts
            cuts = cut_points(groups, file, found.rows[place], runs, low, per_request, per_impression)
            for start, stop in pairwise(cuts):
                kept = np.flatnonzero(keep[low + start : low + stop]) + start
                if len(kept) == 0:
                    continue
                rows = found.rows[place][kept]
                local = np.full(high - low, -1, dtype=np.int64)
                local[kept] = np.arange(len(kept))
                counts = lengths[low:high][kept].astype(np.int32)
                units.append(
                    RequestUnit(
                        segment=segment,
                        file=file,
                        first=int(rows[0]),
                        rows=None if int(rows[-1]) - int(rows[0]) + 1 == len(rows) else rows,
                        lengths=counts,
                        impressions=tuple(unit_runs(runs, low, high, local, counts)),
                        features=tuple(f.of_unit(low, high, local) for f in features),
                        request_bytes=per_request,
                        impression_bytes=per_impression,
                        tokens=self._tokens(file, rows),
                        weights=self._weights(found, low + kept),
                    )
                )
        return units

    def _weights(self, found: _Candidates, chosen: Int64) -> npt.NDArray[np.float64] | None:
        """What each request's user stands for in a sample."""
        return None if self.selector is None else self.selector.weigh(found.columns[0].take(pa.array(chosen)))

    def _tokens(self, file: DataFile, rows: Int64) -> Int64 | None:
        """Elements of the list column that batches are measured in."""
        column = self.options.tokens
        if column is None:
            return None
        ref = self.requests.ref
        stream, found = RowStream(ref.file_io(), ref, file, [column]), []
        try:
            for start in range(0, len(rows), _TOKEN_ROWS):
                lists = stream.take(rows[start : start + _TOKEN_ROWS])[column]
                found.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64))
        finally:
            stream.close()
        return np.concatenate(found)


def build_units(indexer: SegmentIndexer) -> list[RequestUnit]:
    """Index every segment; several at a time."""
    keys = list(dict.fromkeys([*indexer.requests.segments, *indexer.impressions.segments]))
    keys.sort(key=lambda key: tuple(map(str, key)))
    workers = min(8, cpu_count() or 1, max(len(keys), 1))
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="dedup-index") as pool:
        return [unit for units in pool.map(indexer.index, keys) for unit in units]
