"""What is read from where, before any key is: units by rows of their files, and which of them are matched together.

A unit's requests find their impressions among the files of their segment. Where one request file meets one impression
file, both in the order of users as their row groups' statistics prove, a part of the one file meets a part of the
other, and each unit is a section of its own. Otherwise a segment is one section.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from os import cpu_count

import numpy as np

from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef, decoded_bytes
from dedup_storage.reader.open.divide import GroupSizes, cut_rows
from dedup_storage.reader.open.footers import Users, ascending, bounds, group_starts
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.segment import SegmentKey

__all__ = ["PlannedUnit", "Section", "SectionPlanner"]

# As many request files are units enough: footers of more are read with their keys.
_ENOUGH_FILES = 32
# Files with many row groups are not divided further than into so many units in all.
_MOST_UNITS = 1024


@dataclass(frozen=True)
class PlannedUnit:
    """Rows of one file that begin requests of a unit.

    Attributes:
        segment: Their segment.
        file: The file.
        start, stop: First row and last, exclusive; deleted rows do not count.
    """

    segment: SegmentKey
    file: DataFile
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Rows: requests in split layout, impressions in flat."""
        return self.stop - self.start


@dataclass(frozen=True)
class Section:
    """Units whose keys are matched together.

    Attributes:
        segment: Their segment.
        units: The units.
        users: For a part of a file, the users on its borders, whom its neighbours may have too; ``None`` for a whole
            segment.
        first: For a part of a file, the row from which its first user's requests may lie.
        merged: Whether its units are decoded as one.
    """

    segment: SegmentKey
    units: tuple[PlannedUnit, ...]
    users: Users | None = None
    first: int = 0
    merged: bool = False

    @property
    def planned(self) -> tuple[PlannedUnit, ...]:
        """The units that come of it, as far as rows tell."""
        if not self.merged:
            return self.units
        return (PlannedUnit(self.segment, self.units[0].file, 0, sum(unit.rows for unit in self.units)),)


@dataclass(frozen=True)
class _Footer:
    groups: GroupSizes
    users: list[Users | None]


@dataclass(frozen=True)
class SectionPlanner:
    """Plans the sections of a version.

    Attributes:
        requests: Scan of the table with the request columns.
        impressions: Scan of the table with the impression columns; the same one in flat layout.
        user: The user column.
        own_requests: Columns to decode of the requests.
        own_impressions: Columns to decode of the impressions.
        merged: Whether all files of a segment are one unit.
    """

    requests: TableScan
    impressions: TableScan
    user: str
    own_requests: Sequence[str]
    own_impressions: Sequence[str]
    merged: bool = False

    @property
    def flat(self) -> bool:
        """Whether both grains share one table."""
        return self.requests.ref.name == self.impressions.ref.name

    def plan(self) -> list[Section]:
        """All sections, in the order of the segments; footers are read where few files would be few units."""
        segments = sorted(self.requests.segments.items(), key=lambda item: tuple(map(str, item[0])))
        total = sum(file.rows for _, files in segments for file in files)
        if self.merged or sum(len(files) for _, files in segments) >= _ENOUGH_FILES:
            return [self._whole(segment, files) for segment, files in segments]
        least = -(-total // _MOST_UNITS)
        workers = min(8, cpu_count() or 1, max(len(segments), 1))
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="dedup-footers") as pool:
            made = pool.map(lambda item: self._divided(item[0], item[1], least), segments)
            return [section for sections in made for section in sections]

    def _whole(self, segment: SegmentKey, files: Sequence[DataFile]) -> Section:
        return Section(segment, tuple(PlannedUnit(segment, file, 0, file.rows) for file in files), merged=self.merged)

    def _divided(self, segment: SegmentKey, files: Sequence[DataFile], least_rows: int) -> list[Section]:
        """A segment's sections, its file cut at row groups where both files allow it."""
        whole, others = self._whole(segment, files), self.impressions.segments.get(segment, ())
        if len(files) != 1 or len(others) != 1 or files[0].deleted is not None or others[0].deleted is not None:
            return [whole]
        file = files[0]
        requests = self._footer(self.requests.ref, file, self.own_requests)
        if len(requests.users) < 2 or not ascending(requests.users):
            return [whole]
        impressions = self._footer(self.impressions.ref, others[0], self.own_impressions)
        if not ascending(impressions.users):
            return [whole]
        cuts = cut_rows(requests.groups, impressions.groups, least_rows)
        units = tuple(PlannedUnit(segment, file, start, stop) for start, stop in pairwise(cuts))
        if self.flat:
            # A request's rows may lie on both sides of a cut.
            return [Section(segment, units)]
        return [self._part(segment, unit, requests) for unit in units] if len(units) > 1 else [whole]

    def _part(self, segment: SegmentKey, unit: PlannedUnit, footer: _Footer) -> Section:
        starts, users = footer.groups.starts, footer.users
        begin, end = (int(np.searchsorted(starts, row)) for row in (unit.start, unit.stop))
        before, after = users[begin - 1] if begin > 0 else None, users[end] if end < len(users) else None
        own, group = users[begin], begin
        while group > 0 and (low := users[group - 1]) is not None and own is not None and low.high >= own.low:
            group -= 1
        limits = Users(before.high if before is not None else None, after.low if after is not None else None)
        return Section(segment, (unit,), limits, int(starts[group]))

    def _footer(self, ref: TableRef, file: DataFile, columns: Sequence[str]) -> _Footer:
        stream = RowStream(ref.file_io(), ref, file, [self.user, *(c for c in columns if c != self.user)])
        try:
            physical, metadata = stream.physical, stream.parquet.metadata
            names = [physical[c] for c in columns]
            size = decoded_bytes(stream.parquet, [n for n in names if n is not None])
            user = physical[self.user]
            # A file that is older than its user column says nothing of users.
            users = bounds(metadata, user) if user is not None else list[Users | None]([None] * metadata.num_row_groups)
            return _Footer(GroupSizes(group_starts(metadata), size), users)
        finally:
            stream.close()
