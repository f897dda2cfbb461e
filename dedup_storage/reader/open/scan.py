"""The files of one table, by segment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dedup_storage.errors import ConfigError
from dedup_storage.reader.decode.files import DataFile, TableRef
from dedup_storage.reader.segment import SegmentKey

__all__ = ["TableScan", "by_bucket", "with_common_segments"]


@dataclass(frozen=True)
class TableScan:
    """The files of one table, by segment, each list in the order of the paths.

    Attributes:
        ref: The table.
        segments: Its files.
        positions: Positions that an impression can have, by the files' bounds; ``None`` where they do not say.
        bucket: Partition field of the user bucket; ``None`` where files have none, or several.
    """

    ref: TableRef
    segments: dict[SegmentKey, tuple[DataFile, ...]]
    positions: int | None = None
    bucket: str | None = None

    @classmethod
    def of(
        cls,
        ref: TableRef,
        files: Iterable[tuple[SegmentKey, DataFile]],
        positions: int | None = None,
        bucket: str | None = None,
    ) -> TableScan:
        """Files, each with its segment, in any order."""
        segments: dict[SegmentKey, list[DataFile]] = {}
        for key, file in files:
            segments.setdefault(key, []).append(file)
        ordered = sorted(segments.items(), key=lambda item: tuple(map(str, item[0])))
        return cls(ref, {key: tuple(sorted(found, key=lambda f: f.path)) for key, found in ordered}, positions, bucket)

    @property
    def num_rows(self) -> int:
        """Rows of the files left after pruning, without deleted ones."""
        return sum(file.rows for files in self.segments.values() for file in files)

    @property
    def num_files(self) -> int:
        """Files left after pruning."""
        return sum(map(len, self.segments.values()))


def with_common_segments(scans: Sequence[TableScan]) -> list[TableScan]:
    """The scans with segments by the partition fields that all their files have.

    Usually all have the same. Where a table or an older file is partitioned otherwise, segments become coarser, so
    that rows of one request never lie in different ones.
    """
    labels = [tuple(field for field, _ in key) for scan in scans for key in scan.segments]
    if len(set(labels)) <= 1:
        return list(scans)
    coarse = []
    for scan in _coarser(scans, set(labels[0]).intersection(*labels[1:])):
        ordered = {k: tuple(sorted(f, key=lambda d: d.path)) for k, f in scan.segments.items()}
        coarse.append(replace(scan, segments=ordered))
    return coarse


def by_bucket(scans: Sequence[TableScan]) -> list[TableScan]:
    """The scans with a segment for each user bucket, its files in the order of their dates.

    Raises:
        ConfigError: files lie in different buckets, or in none.
    """
    fields = {scan.bucket for scan in scans if scan.segments}
    alike = len(fields) == 1 and all(fields <= {field for field, _ in key} for scan in scans for key in scan.segments)
    if fields and (None in fields or not alike):
        raise ConfigError(
            "across_dates reads the files of a user bucket together, and not all lie in the same buckets",
            expected="one partition by user bucket, in every table and file",
            got=", ".join(sorted(str(field) for field in fields)),
            fix="Convert the dataset, or leave across_dates out.",
        )
    return _coarser(scans, {str(field) for field in fields})


def _coarser(scans: Sequence[TableScan], common: Collection[str]) -> list[TableScan]:
    coarse = []
    for scan in scans:
        segments: dict[SegmentKey, tuple[DataFile, ...]] = {}
        for key, files in scan.segments.items():
            kept = tuple((f, v) for f, v in key if f in common)
            segments[kept] = (*segments.get(kept, ()), *files)
        coarse.append(replace(scan, segments=segments))
    return coarse
