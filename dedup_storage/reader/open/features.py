"""The index of a feature group: which of its rows belong to which request, from the key columns alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import DuplicateRowsError
from dedup_storage.reader.decode.features import FeatureRows, FeatureSource
from dedup_storage.reader.decode.files import DataFile
from dedup_storage.reader.open.keys import KeyReader, owners
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.open.sections import Section
from dedup_storage.schema import Grain

__all__ = ["FeatureFiles", "FeatureScan", "index_features"]


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
    """Runs of a feature group's rows in one segment, owned by its candidates."""

    runs: tuple[tuple[DataFile, Int64, Int64, Int64], ...]

    def of_unit(self, low: int, high: int, local: Int64) -> FeatureRows:
        """The runs of one unit; arguments as for ``unit_runs``."""
        found = []
        for file, starts, sizes, owner in self.runs:
            inside = (owner >= low) & (owner < high)
            inside[inside] = local[owner[inside] - low] >= 0
            if np.any(inside):
                requests = local[owner[inside] - low].astype(np.int32)
                found.append((file, starts[inside], sizes[inside].astype(np.int32), requests))
        return FeatureRows(tuple(found))


def index_features(
    feature: FeatureScan, reader: KeyReader, section: Section, candidates: Sequence[pa.Array]
) -> FeatureFiles:
    """Match a feature group's rows with a section's requests.

    Raises:
        DuplicateRowsError: a request has two rows at request grain.
    """
    found = []
    seen: list[Int64] = []
    for file in feature.scan.segments.get(section.segment, ()):
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
