"""The plan: everything workers need, found once when a dataset is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, SchemaError, UnknownColumnError, known_names
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.catalog import Cut, open_cut
from dedup_storage.reader.decode import ArrowTransform, SplitReader, UnitReader
from dedup_storage.reader.encode import BatchPacker, can_be_tensor
from dedup_storage.reader.files import TableRef
from dedup_storage.reader.index import SegmentIndexer, Unit, build_units
from dedup_storage.reader.options import ReadOptions
from dedup_storage.reader.options import Unit as CostUnit
from dedup_storage.reader.order import EpochOrder, OrderOptions, UnitSizes
from dedup_storage.reader.scan import plan_table
from dedup_storage.reader.state import fingerprint
from dedup_storage.schema import Grain

__all__ = ["ReadPlan", "make_plan"]

_MOST_SPLITS = 32


@dataclass(frozen=True)
class ReadPlan:
    """A version, indexed.

    Attributes:
        spec: The dataset.
        options: What is read; columns and splits resolved.
        pins: What a state must agree with.
        requests: Table with the request columns.
        impressions: Table with the impression columns.
        request_columns: Columns to deliver.
        impression_columns: Columns to deliver.
        units: What is decoded.
        splits: Logical splits.
    """

    spec: DatasetSpec
    options: ReadOptions
    pins: dict[str, Any]
    requests: TableRef
    impressions: TableRef
    request_columns: tuple[str, ...]
    impression_columns: tuple[str, ...]
    units: tuple[Unit, ...]
    splits: int

    @property
    def num_requests(self) -> int:
        """Requests of an epoch."""
        return sum(len(u) for u in self.units)

    @property
    def num_impressions(self) -> int:
        """Impressions of an epoch."""
        return sum(int(u.lengths.sum()) for u in self.units)

    @property
    def packer(self) -> BatchPacker:
        """Packs tables into batches."""
        schema = self.spec.schema_
        return BatchPacker(schema.user, schema.labels, schema.sequence_columns, self.options.strings)

    def _sizes(self) -> list[UnitSizes]:
        return [
            UnitSizes(u.lengths, _cost(u, self.options.unit), u.request_bytes, u.impression_bytes) for u in self.units
        ]

    def epoch(self, epoch: int) -> EpochOrder:
        """The sequence of batches of an epoch."""
        options = self.options
        order = OrderOptions(
            batch_size=options.batch_size,
            splits=self.splits,
            shuffle=options.shuffle,
            seed=options.seed,
            buffer_bytes=options.buffer_bytes,
            mix=options.mix,
            split_oversize=options.oversize == "split",
            drop_last=options.drop_last,
        )
        return EpochOrder(self._sizes(), order, epoch)

    def split_reader(self, order: EpochOrder, split: int, transform: ArrowTransform | None) -> SplitReader:
        """A reader of one split's batches."""
        piece = max(64 << 10, self.options.buffer_bytes // (8 * self.splits))

        def open_unit(number: int) -> UnitReader:
            return UnitReader(
                self.units[number],
                self.requests,
                self.impressions,
                self.request_columns,
                self.impression_columns,
                piece,
            )

        return SplitReader(order.splits[split], open_unit, self.packer, transform)

    def empty_batch(self, progress: Progress) -> DedupBatch:
        """A batch of no rows."""
        tables = [
            pa.table({c: pa.array([], ref.fields[c][1]) for c in columns})
            for ref, columns in (
                (self.requests, self.request_columns),
                (self.impressions, self.impression_columns),
            )
        ]
        return self.packer.pack([tables[0]], [tables[1]], np.empty(0, dtype=np.int64), progress)

    def check_splits(self, world_size: int, workers: int) -> None:
        """Every worker of every rank needs a split.

        Raises:
            ConfigError: there are fewer.
        """
        if self.splits < world_size * workers:
            raise ConfigError(
                f"{self.splits} splits cannot keep {world_size} ranks x {workers} workers busy",
                expected=f"at least {world_size * workers} splits",
                got=f"{self.splits}",
                fix=f"Open the dataset with splits={world_size * workers}, or use fewer workers.",
            )


def _cost(unit: Unit, measure: CostUnit) -> np.ndarray[Any, np.dtype[np.int64]]:
    if measure is CostUnit.REQUESTS:
        return np.ones(len(unit), dtype=np.int64)
    if measure is CostUnit.TOKENS and unit.tokens is not None:
        return np.maximum(unit.tokens, 1)
    # A request without impressions still takes a row.
    return np.maximum(unit.lengths.astype(np.int64), 1)


def make_plan(name: str, settings: Settings, version: int | None, options: ReadOptions) -> ReadPlan:
    """Open a version and index it.

    Raises:
        DatasetNotFoundError, VersionNotFoundError, UnknownColumnError, ConfigError, StorageError.
    """
    cut = open_cut(name, settings, version)
    spec = cut.spec
    flat = spec.layout is Layout.FLAT
    role = TableRole.LOGS if flat else TableRole.REQUESTS
    requests = plan_table(spec, cut.by_role(role)[0], options.filters)
    impressions = requests if flat else plan_table(spec, cut.by_role(TableRole.IMPRESSIONS)[0], options.filters)
    request_columns, impression_columns = _project(spec, options, requests.ref, impressions.ref)
    indexer = SegmentIndexer(spec, options, requests, impressions, request_columns, impression_columns)
    units = tuple(build_units(indexer))
    splits = options.splits if options.splits is not None else _default_splits(len(units))
    return ReadPlan(
        spec=spec,
        options=options,
        pins=_pins(cut, options, request_columns, impression_columns, splits),
        requests=requests.ref,
        impressions=impressions.ref,
        request_columns=request_columns,
        impression_columns=impression_columns,
        units=units,
        splits=splits,
    )


def _default_splits(units: int) -> int:
    """The largest power of two that every unit count can fill, at most 32."""
    splits = 1
    while splits * 2 <= min(units, _MOST_SPLITS):
        splits *= 2
    return splits


def _pins(
    cut: Cut, options: ReadOptions, request_columns: tuple[str, ...], impression_columns: tuple[str, ...], splits: int
) -> dict[str, Any]:
    rest = options.model_dump(mode="json", exclude={"columns", "seed", "splits", "filters"})
    return {
        "dataset": cut.spec.name,
        "snapshots": {name: str(snapshot) for name, snapshot in cut.snapshots.items()},
        "seed": options.seed,
        "splits": splits,
        "columns": fingerprint({"columns": [*request_columns, *impression_columns]}),
        "filters": fingerprint(options.filters.model_dump(mode="json")),
        "options": fingerprint(rest),
    }


def _project(
    spec: DatasetSpec, options: ReadOptions, requests: TableRef, impressions: TableRef
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns to deliver of each grain; the request key is always among them."""
    grains = spec.schema_.declared_grains()
    grains[spec.position_column] = Grain.IMPRESSION
    if spec.event_date_column is not None:
        grains[spec.event_date_column] = Grain.REQUEST
    keys = spec.request_key
    own = {c: requests for c in requests.fields if c in keys or grains.get(c, Grain.REQUEST) is Grain.REQUEST}
    rest = {c: impressions for c in impressions.fields if grains.get(c) is Grain.IMPRESSION}
    known = {**own, **rest}
    wanted = options.columns
    if wanted is None:
        wanted = tuple(c for c, ref in known.items() if can_be_tensor(ref.fields[c][1]))
    for column in wanted:
        if column not in known:
            raise UnknownColumnError(
                f"the dataset {spec.name} has no column {column}",
                expected=known_names(column, known),
                fix="Name one of these.",
            )
        if not can_be_tensor(known[column].fields[column][1]):
            raise SchemaError(
                f"the column {column} has no tensor form",
                expected="a scalar or a list of scalars",
                got=str(known[column].fields[column][1]),
                fix="Leave it out of columns.",
            )
    chosen = dict.fromkeys((*keys, *wanted))
    return tuple(c for c in chosen if c in own), tuple(c for c in chosen if c in rest)
