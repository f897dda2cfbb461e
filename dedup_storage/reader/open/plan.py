"""The plan: everything workers need, found once when a dataset is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, SchemaError, UnknownColumnError, known_names
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.files import TableRef
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.split import ArrowTransform, SplitReader
from dedup_storage.reader.decode.unit_reader import Decoded, UnitReader, UnitSource
from dedup_storage.reader.decode.units import RequestUnit
from dedup_storage.reader.decode.window import encode_window
from dedup_storage.reader.open.cut import Cut, CutTable
from dedup_storage.reader.open.features import FeatureScan
from dedup_storage.reader.open.formats import open_cut
from dedup_storage.reader.open.index import SegmentIndexer, build_units
from dedup_storage.reader.open.project import Projection, project
from dedup_storage.reader.open.samples import resolve_sample, without_weights
from dedup_storage.reader.open.scan import with_common_segments
from dedup_storage.reader.options import ReadOptions, Unit
from dedup_storage.reader.order import EpochOrder, OrderOptions, UnitSizes
from dedup_storage.reader.state import fingerprint
from dedup_storage.reader.vocabulary import IdVocabulary, fits_vocabulary
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["ReadPlan", "make_plan"]

_MOST_SPLITS = 32


@dataclass(frozen=True)
class ReadPlan:
    """A version, indexed.

    Attributes:
        spec: The dataset.
        version: The version's number.
        options: What is read; columns and splits resolved.
        pins: What a state must agree with.
        source: What units are read from.
        units: What is decoded.
        splits: Logical splits.
        users_not_found: Users that the filters name and that have no request to read.
        vocabularies: Column -> vocabulary whose ids are delivered in place of its values.
    """

    spec: DatasetSpec
    version: int
    options: ReadOptions
    pins: dict[str, Any]
    source: UnitSource
    units: tuple[RequestUnit, ...]
    splits: int
    vocabularies: Mapping[str, IdVocabulary] = field(default_factory=dict)
    users_not_found: int = 0

    @property
    def opened(self) -> dict[str, Any]:
        """Version and options, for the message that refuses a state."""
        return {"version": self.version, "options": self.options.described()}

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
        return BatchPacker(schema.user, schema.item, schema.labels, schema.sequence_columns, self.forms)

    @property
    def forms(self) -> Forms:
        """What each column's values become."""
        return Forms(self.options.strings, self.vocabularies)

    @property
    def grains(self) -> dict[str, Grain]:
        """Grain of each column that is delivered."""
        source = self.source
        found = dict.fromkeys(source.request_columns, Grain.REQUEST)
        return found | dict.fromkeys(source.impression_columns, Grain.IMPRESSION)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Arrow type of each column of the tables that are read."""
        types = dict.fromkeys((REQUEST_WEIGHT, IMPRESSION_WEIGHT), pa.float64())
        return types | {c: ref.fields[c][1] for ref in self._tables() for c in ref.fields}

    def decoded(self, block_bytes: float) -> Iterator[Decoded]:
        """Everything that an epoch delivers, as Arrow tables in the order of the files.

        Args:
            block_bytes: Decoded bytes of a piece, about.
        """
        for unit, sizes in zip(self.units, self._sizes(), strict=True):
            reader = UnitReader(unit, self.source)
            try:
                for start, stop in pairwise(sizes.block_bounds(block_bytes).tolist()):
                    yield reader.read(start, stop)
            finally:
                reader.close()

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

    def split_reader(
        self,
        order: EpochOrder,
        split: int,
        transform: ArrowTransform | None,
        pool: ThreadPoolExecutor | None = None,
    ) -> SplitReader:
        """A reader of one split's batches."""

        def open_unit(number: int) -> UnitReader:
            return UnitReader(self.units[number], self.source)

        return SplitReader(order.splits[split], open_unit, self.packer, transform, pool)

    def empty_batch(self, progress: Progress, transform: ArrowTransform | None) -> DedupBatch:
        """A batch of no rows."""
        source, types = self.source, self.types
        requests = pa.table({c: pa.array([], types[c]) for c in source.request_columns})
        impressions = pa.table({c: pa.array([], types[c]) for c in source.impression_columns})
        if transform is not None:
            requests, impressions = transform(requests, impressions)
        none = np.empty(0, dtype=np.int64)
        window = encode_window(requests, impressions, none, None, self.forms)
        return self.packer.pack([Part(window, (0, 0), (0, 0), none)], progress)

    def _tables(self) -> list[TableRef]:
        source = self.source
        return [*(f.table for f in source.features), source.impressions, source.requests]

    def check_splits(self, world_size: int, workers: int) -> None:
        """Every worker of every rank needs a split.

        Raises:
            ConfigError: there are fewer.
        """
        if self.splits < world_size * workers:
            raise ConfigError(
                f"{counted(self.splits, 'split')} cannot keep {counted(world_size, 'rank')} x "
                f"{counted(workers, 'worker')} busy",
                expected=f"at least {counted(world_size * workers, 'split')}",
                got=f"{self.splits}",
                fix=f"Open the dataset with splits={world_size * workers}, or use fewer workers.",
            )


def _cost(unit: RequestUnit, measure: Unit) -> np.ndarray[Any, np.dtype[np.int64]]:
    if measure is Unit.REQUESTS:
        return np.ones(len(unit), dtype=np.int64)
    if measure is Unit.TOKENS and unit.tokens is not None:
        return np.maximum(unit.tokens, 1)
    # A request without impressions still takes a row.
    return np.maximum(unit.lengths.astype(np.int64), 1)


def make_plan(
    name: str,
    settings: Settings,
    version: int | None,
    options: ReadOptions,
    vocabularies: Mapping[str, IdVocabulary] | None = None,
) -> ReadPlan:
    """Open a version and index it.

    Raises:
        DatasetNotFoundError, VersionNotFoundError, UnknownColumnError, ConfigError, StorageError.
    """
    cut = open_cut(name, settings, version)
    spec, user = cut.spec, cut.spec.schema_.user
    kind = dict(zip(spec.source_columns, spec.source_types, strict=True))[user]
    options = options.model_copy(update={"filters": options.filters.of_users(user, kind)})
    sample = resolve_sample(cut, options)
    projection, filters = project(cut, without_weights(options)), sample.filters
    tables = _tables_of(projection)
    planned = {t.name: t.stored.plan(t.name, spec, filters) for t in tables}
    names = list(planned)
    scans = dict(zip(names, with_common_segments(list(planned.values())), strict=True))
    requests, impressions = scans[projection.requests.name], scans[projection.impressions.name]
    features = tuple(FeatureScan(g.grain, scans[g.table.name], g.columns) for g in projection.groups)
    indexer = SegmentIndexer(
        spec,
        options.model_copy(update={"filters": filters}),
        requests,
        impressions,
        projection.own_requests,
        projection.own_impressions,
        features,
        sample.selector,
        projection.conditions,
        {c.table.name: scans[c.table.name] for c in projection.conditions if c.table.role is TableRole.FEATURES},
    )
    units = tuple(build_units(indexer))
    splits = options.splits if options.splits is not None else _default_splits(len(units))
    source = UnitSource(
        requests=requests.ref,
        impressions=impressions.ref,
        own_requests=projection.own_requests,
        own_impressions=projection.own_impressions,
        features=tuple(f.source for f in features),
        request_columns=(*projection.request_columns, *([REQUEST_WEIGHT] if sample.selector else [])),
        impression_columns=(*projection.impression_columns, *([IMPRESSION_WEIGHT] if sample.selector else [])),
        position=spec.position_column,
        piece_bytes=_piece_bytes(options, len(units), splits),
    )
    pins = _pins(cut, options, projection, splits, sample.fingerprint)
    missing = len(set(filters.users or ()) - indexer.found_users)
    if vocabularies:
        pins["vocabularies"] = {column: v.digest for column, v in sorted(vocabularies.items())}
    plan = ReadPlan(spec, cut.version, options, pins, source, units, splits, dict(vocabularies or {}), missing)
    _check_vocabularies(plan)
    return plan


def _check_vocabularies(plan: ReadPlan) -> None:
    for column, vocabulary in plan.vocabularies.items():
        if column not in plan.grains:
            raise UnknownColumnError(
                f"the column {column} has a vocabulary and is not read",
                expected=known_names(column, plan.grains),
                fix="Name it in columns too.",
            )
        if column in plan.spec.request_key:
            raise ConfigError(
                f"the column {column} is a key of users or requests, which ids of a vocabulary cannot tell apart",
                fix="Leave its vocabulary out; batch.user_ids() are the same in every batch.",
            )
        if not fits_vocabulary(plan.types[column], vocabulary):
            raise SchemaError(
                f"the column {column} does not fit its vocabulary",
                expected=f"{vocabulary.values.type}, as in {vocabulary!r}",
                got=str(plan.types[column]),
                fix="Build the vocabulary of this column.",
            )


def _tables_of(projection: Projection) -> list[CutTable]:
    """Tables that are read, be it for a condition alone."""
    groups = (g.table for g in projection.groups)
    return [projection.requests, projection.impressions, *groups, *(c.table for c in projection.conditions)]


def _piece_bytes(options: ReadOptions, units: int, splits: int) -> int:
    """Bytes to decode at a time: half a block, since what a window keeps of a piece keeps all of it."""
    mix = max(min(options.mix, -(-units // splits)), 1)
    return max(64 << 10, options.buffer_bytes // (4 * splits * mix))


def _default_splits(units: int) -> int:
    """The largest power of two that every unit count can fill, at most 32."""
    splits = 1
    while splits * 2 <= min(units, _MOST_SPLITS):
        splits *= 2
    return splits


def _pins(cut: Cut, options: ReadOptions, projection: Projection, splits: int, sample: str | None) -> dict[str, Any]:
    rest = options.model_dump(mode="json", exclude={"columns", "seed", "splits", "filters", "sample"})
    read = {t.name: t for t in _tables_of(projection)}.values()
    return {
        "dataset": cut.spec.name,
        "snapshots": {t.name: str(t.snapshot_id) for t in sorted(read, key=lambda t: t.name)},
        "seed": options.seed,
        "splits": splits,
        "columns": fingerprint({"columns": [*projection.request_columns, *projection.impression_columns]}),
        "filters": fingerprint({**options.filters.dumped(), "sample": sample}),
        "options": fingerprint(rest),
    }
