"""From blocks of requests to Arrow tables: requests, their impressions, and the feature groups of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.expand import inverse_from_lengths, offsets_from_lengths, ranges
from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.events import EventSource, HistoryReader, ListCut
from dedup_storage.reader.decode.features import (
    FeatureSource,
    Match,
    match_impressions,
    match_requests,
    placed,
    rows_of,
)
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef
from dedup_storage.reader.decode.streams import Streams
from dedup_storage.reader.decode.units import RequestUnit, RunList
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT
from dedup_storage.schema import Grain

__all__ = ["BlockReader", "Decoded", "UnitReader", "UnitSource"]


@dataclass(frozen=True)
class Decoded:
    """Decoded requests and their impressions, in the order of their units.

    Attributes:
        requests: One row per request.
        impressions: Grouped by request, in the order of ``requests``.
        lengths: Impressions of each request.
    """

    requests: pa.Table
    impressions: pa.Table
    lengths: Int64


class BlockReader(Protocol):
    """Decodes ascending blocks of a unit."""

    def read(self, start: int, stop: int) -> Decoded:
        """Requests ``start`` to ``stop`` of the unit, with their impressions."""

    def close(self) -> None:
        """Let the files go."""


@dataclass(frozen=True)
class UnitSource:
    """What all units of a dataset are read from.

    Attributes:
        requests: Table with the request columns.
        impressions: Table with the impression columns.
        own_requests: Request columns of that table to decode.
        own_impressions: Impression columns of that table to decode.
        features: Feature groups to join, in the order of ``RequestUnit.features``.
        request_columns: Columns to deliver.
        impression_columns: Columns to deliver.
        position: Position column.
        piece_bytes: Decoded bytes that each open file may hold.
        events: Sequence groups whose lists are runs of events, in the order of ``RequestUnit.events``.
        most: Newest elements of a history list to deliver; ``None`` for all.
        cut: History lists of the requests' table that are cut to these.
        cut_first: Those of them whose newest elements come first.
    """

    requests: TableRef
    impressions: TableRef
    own_requests: tuple[str, ...]
    own_impressions: tuple[str, ...]
    features: tuple[FeatureSource, ...]
    request_columns: tuple[str, ...]
    impression_columns: tuple[str, ...]
    position: str
    piece_bytes: int
    events: tuple[EventSource, ...] = ()
    most: int | None = None
    cut: tuple[str, ...] = ()
    cut_first: tuple[str, ...] = ()

    @property
    def stored_requests(self) -> tuple[str, ...]:
        """Columns of requests before the lists of events are in place."""
        of_events = {c for each in self.events if each.beside for c in each.columns}
        beside = (each.beside for each in self.events if each.beside)
        return tuple(dict.fromkeys((*(c for c in self.request_columns if c not in of_events), *beside)))

    @property
    def cuts(self) -> dict[str, ListCut]:
        """How the lists of ``cut`` are cut."""
        kinds = {column: self.requests.fields[column][1].value_type for column in self.cut}
        return {column: ListCut(kind, column in self.cut_first) for column, kind in kinds.items()}


class UnitReader:
    """Decodes ascending blocks of one unit.

    Args:
        unit: The unit.
        source: What it is read from.
    """

    def __init__(self, unit: RequestUnit, source: UnitSource) -> None:
        self._unit, self._source = unit, source
        self._offsets = offsets_from_lengths(unit.lengths)
        columns = list(source.own_impressions)
        listed = any(r.listed is not None for r in unit.impressions)
        joined = any(f.grain is Grain.IMPRESSION for f in source.features)
        # Rows from several files are put in order by position; features are matched by it.
        if (listed or joined) and source.position not in columns:
            columns.append(source.position)
        self._columns = columns
        self._streams = Streams(source.piece_bytes)
        self._histories = HistoryReader(unit.events, source.events, source.cuts, source.most, self._streams)

    def close(self) -> None:
        """Let the files go."""
        self._streams.close()

    def read(self, start: int, stop: int) -> Decoded:
        """Requests ``start`` to ``stop`` of the unit, with their impressions."""
        unit, source = self._unit, self._source
        stream = self._streams.of("requests", source.requests, unit.file, source.own_requests)
        if unit.rows is None:
            requests = stream.read(unit.first + start, unit.first + stop)
        else:
            requests = stream.take(unit.rows[start:stop])
        requests = self._histories.put(requests, start, stop)
        impressions = self._read_impressions(start, stop)
        lengths = unit.lengths[start:stop].astype(np.int64)
        if source.features:
            requests, impressions = self._join(requests, impressions, lengths, start, stop)
        if unit.weights is not None:
            weights = unit.weights[start:stop]
            requests = requests.append_column(REQUEST_WEIGHT, pa.array(weights))
            of_impressions = pa.array(np.repeat(weights, lengths))
            if impressions.num_columns:
                impressions = impressions.append_column(IMPRESSION_WEIGHT, of_impressions)
            else:
                # A table without columns does not say how many rows it has.
                impressions = pa.table({IMPRESSION_WEIGHT: of_impressions})
        return Decoded(
            requests.select(list(source.request_columns)), impressions.select(list(source.impression_columns)), lengths
        )

    # -- impressions --------------------------------------------------------------------------------------------
    def _impression_stream(self, file: DataFile) -> RowStream:
        return self._streams.of("impressions", self._source.impressions, file, self._columns)

    def _read_impressions(self, start: int, stop: int) -> pa.Table:
        tables, owners = [], []
        for runs in self._unit.impressions:
            if runs.listed is None:
                low, high = runs.first + int(self._offsets[start]), runs.first + int(self._offsets[stop])
                return self._impression_stream(runs.file).read(low, high)
            table, owner = self._read_runs(runs.file, runs.listed, start, stop)
            tables.append(table)
            owners.append(owner)
        if not tables:
            fields = self._source.impressions.fields
            return pa.table({c: pa.array([], fields[c][1]) for c in self._columns})
        together, owner = pa.concat_tables(tables, promote_options="permissive"), np.concatenate(owners)
        position = together[self._source.position].to_numpy()
        same, later = owner[1:] == owner[:-1], position[1:] >= position[:-1]
        if np.all((owner[1:] > owner[:-1]) | (same & later)):
            return together
        return gather_table(together, np.lexsort((position, owner)))

    def _read_runs(self, file: DataFile, runs: RunList, start: int, stop: int) -> tuple[pa.Table, Int64]:
        """The rows of the runs that belong to the requests, and the request of each."""
        inside = np.flatnonzero((runs.requests >= start) & (runs.requests < stop))
        inside = inside[np.argsort(runs.starts[inside], kind="stable")]
        sizes = runs.lengths[inside].astype(np.int64)
        owner = np.repeat(runs.requests[inside].astype(np.int64), sizes)
        return self._impression_stream(file).take(ranges(runs.starts[inside], sizes)), owner

    # -- features -----------------------------------------------------------------------------------------------
    def _join(
        self, requests: pa.Table, impressions: pa.Table, lengths: Int64, start: int, stop: int
    ) -> tuple[pa.Table, pa.Table]:
        matches: dict[int, Match] = {}
        found: dict[Grain, dict[str, pa.Array]] = {Grain.REQUEST: {}, Grain.IMPRESSION: {}}
        for number, (feature, rows) in enumerate(zip(self._source.features, self._unit.features, strict=True)):
            ref = feature.table
            columns = {c: ref.fields[c][1] for c in feature.columns}
            match = matches[rows.twin] if rows.twin is not None else None
            at_impressions = feature.grain is Grain.IMPRESSION
            wanted = [*columns, *([self._source.position] if at_impressions and match is None else [])]

            def open_file(
                file: DataFile, part: str = f"features {number}", ref: TableRef = ref, wanted: Sequence[str] = wanted
            ) -> RowStream:
                return self._streams.of(part, ref, file, wanted)

            if match is None and at_impressions:
                match, table = match_impressions(
                    rows,
                    open_file,
                    start,
                    stop,
                    owners=inverse_from_lengths(lengths) + start,
                    positions=impressions[self._source.position].to_numpy().astype(np.int64),
                    position_column=self._source.position,
                )
            else:
                match = match_requests(rows, start, stop) if match is None else match
                table = rows_of(rows, match.rows, open_file)
            matches[number] = match
            found[feature.grain] |= placed(table, columns, match)
        return _with(requests, found[Grain.REQUEST]), _with(impressions, found[Grain.IMPRESSION])


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, array in columns.items():
        table = table.append_column(name, array)
    return table
