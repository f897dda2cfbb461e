"""The index of feature groups: which of their rows belong to which request, from the key columns alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import DuplicateRowsError
from dedup_storage.reader.decode.features import FeatureRows, FeatureSource, Int32
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.open.keys import KeyReader, owners
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.open.sections import Section
from dedup_storage.reader.open.twins import KeyDigests
from dedup_storage.schema import Grain

__all__ = ["FeatureFiles", "FeatureScan", "index_all", "units_of"]


@dataclass(frozen=True)
class FeatureScan:
    """One feature group of a version.

    Attributes:
        grain: Grain of its rows.
        scan: Its files.
        columns: Columns to join.
    """

    grain: Grain
    scan: TableScan
    columns: tuple[str, ...]

    @property
    def source(self) -> FeatureSource:
        """What workers need of it: its list of files stays behind."""
        return FeatureSource(self.grain, self.scan.ref, self.columns)


@dataclass(frozen=True)
class FeatureFiles:
    """Runs of a feature group's rows in one segment, owned by its candidates.

    Attributes:
        runs: Of each file the first row, the rows and the owner of every run.
        twin: Number of an earlier group whose runs they are, in files of the same keys.
    """

    runs: tuple[tuple[DataFile, Int64, Int64, Int64], ...]
    twin: int | None = None


def units_of(features: Sequence[FeatureFiles], low: int, high: int, local: Int64) -> tuple[FeatureRows, ...]:
    """Each group's runs of one unit; arguments as for ``unit_runs``."""
    found: list[FeatureRows] = []
    # Of each group the files that hold something of the unit.
    held: list[list[int]] = []
    for feature in features:
        if feature.twin is not None:
            there = held[feature.twin]
            alike = zip(there, found[feature.twin].files, strict=True)
            files = tuple((feature.runs[n][0], starts, sizes, own) for n, (_, starts, sizes, own) in alike)
            found.append(FeatureRows(files, feature.twin))
        else:
            inside = {n: _of_unit(run, low, high, local) for n, run in enumerate(feature.runs)}
            there = [n for n, rows in inside.items() if rows is not None]
            found.append(FeatureRows(tuple(rows for rows in inside.values() if rows is not None)))
        held.append(there)
    return tuple(found)


def _of_unit(
    run: tuple[DataFile, Int64, Int64, Int64], low: int, high: int, local: Int64
) -> tuple[DataFile, Int64, Int32, Int32] | None:
    file, starts, sizes, owner = run
    inside = (owner >= low) & (owner < high)
    inside[inside] = local[owner[inside] - low] >= 0
    if not np.any(inside):
        return None
    requests = local[owner[inside] - low].astype(np.int32)
    return file, starts[inside], sizes[inside].astype(np.int32), requests


def index_all(
    features: Sequence[FeatureScan],
    reader: KeyReader,
    section: Section,
    candidates: Sequence[pa.Array],
    digests: KeyDigests,
) -> list[FeatureFiles]:
    """Match feature groups' rows with a section's requests; those of equal keys once.

    Raises:
        DuplicateRowsError: a request has two rows at request grain.
    """
    found: list[FeatureFiles] = []
    known: dict[tuple[Grain, tuple[bytes, ...]], int] = {}
    for number, feature in enumerate(features):
        files = list(feature.scan.segments.get(section.segment, ()))
        stored = None
        # Of few users' rows the keys are fewer bytes than all keys.
        if files and reader.filters.users is None and sum(f.grain is feature.grain for f in features) > 1:
            stored = _stored_keys(feature, reader, files, digests)
        if stored is not None:
            files = [file for _, file in sorted(zip(stored, files, strict=True), key=lambda pair: pair[0])]
            alike = known.setdefault((feature.grain, tuple(sorted(stored))), number)
            if alike != number:
                pairs = zip(files, found[alike].runs, strict=True)
                runs = tuple((file, starts, sizes, owner) for file, (_, starts, sizes, owner) in pairs)
                found.append(FeatureFiles(runs, alike))
                continue
        found.append(_index(feature, files, reader, section, candidates))
    return found


def _stored_keys(
    feature: FeatureScan, reader: KeyReader, files: Sequence[DataFile], digests: KeyDigests
) -> list[bytes] | None:
    """What tells equal keys of files; ``None`` where nothing does."""
    spec = reader.spec
    key = spec.request_key if feature.grain is Grain.REQUEST else spec.impression_key
    found = []
    for file in files:
        digest = digests.of(feature.scan.ref, file, key)
        if digest is None:
            return None
        found.append(digest)
    return found


def _index(
    feature: FeatureScan,
    files: Sequence[DataFile],
    reader: KeyReader,
    section: Section,
    candidates: Sequence[pa.Array],
) -> FeatureFiles:
    found = []
    seen: list[Int64] = []
    for file in files:
        runs = reader.runs(feature.scan.ref, file, users=section.users)
        owner = owners(candidates, [runs.keys[k] for k in reader.spec.request_key])
        there = owner >= 0
        found.append((file, runs.starts[there], runs.sizes[there], owner[there]))
        seen.append(np.repeat(owner[there], runs.sizes[there]))
    if feature.grain is Grain.REQUEST and seen:
        owned = np.concatenate(seen)
        if len(np.unique(owned)) != len(owned):
            raise DuplicateRowsError(
                f"the feature group {feature.scan.ref.name} has two rows for one request",
                expected="one row per request",
            )
    return FeatureFiles(tuple(found))
