"""The plan: what is read from where, found when a dataset is opened, from manifests and footers alone where they do.

Keys are read at once where filters, samples or lengths of lists decide which requests there are and what they count
for; else when a unit is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, SchemaError, UnknownColumnError, known_names
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.cache.file_cache import FileCache
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.events import plain_lists
from dedup_storage.reader.decode.merged import AnyUnit, MergedReader, MergedUnit
from dedup_storage.reader.decode.pack import BatchPacker, Part
from dedup_storage.reader.decode.split import ArrowTransform, SplitReader
from dedup_storage.reader.decode.unit_reader import BlockReader, Decoded, UnitReader, UnitSource
from dedup_storage.reader.decode.window import encode_window
from dedup_storage.reader.open.cut import Cut, CutTable
from dedup_storage.reader.open.event_keys import EventKeys
from dedup_storage.reader.open.events import EventScan
from dedup_storage.reader.open.features import FeatureScan
from dedup_storage.reader.open.formats import open_cut
from dedup_storage.reader.open.index import SegmentIndexer
from dedup_storage.reader.open.lengths import KnownLengths
from dedup_storage.reader.open.project import Events, Projection, project
from dedup_storage.reader.open.samples import resolve_sample, without_weights
from dedup_storage.reader.open.scan import TableScan, by_bucket, with_common_segments
from dedup_storage.reader.open.sections import SectionPlanner
from dedup_storage.reader.open.units import UnitIndex
from dedup_storage.reader.open.weights import (
    SizesInTurn,
    Totals,
    counted_first,
    filters_of_rows,
    known_totals,
    planned_weights,
    unit_sizes,
)
from dedup_storage.reader.options import Filters, ReadOptions, Unit
from dedup_storage.reader.order import EpochOrder, OrderOptions, SplitOrder, UnitWeights
from dedup_storage.reader.state import ORDER, fingerprint
from dedup_storage.reader.vocabulary import IdVocabulary, fits_vocabulary
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["ReadPlan", "make_plan"]

_MOST_SPLITS = 32
# Rows of a dataset whose keys are all read when it is opened.
SMALL_ROWS = 100_000


@dataclass(frozen=True)
class ReadPlan:
    """A version, its units known by their files and rows.

    Attributes:
        spec: The dataset.
        version: The version's number.
        options: What is read; columns and splits resolved.
        pins: What a state must agree with.
        source: What units are read from.
        units: What is decoded; the keys of one are read when it is asked for.
        splits: Logical splits.
        weights: What is known of the units without their keys.
        lengths: Lengths of units whose keys were read, for this process and its forked workers.
        totals: What is known of an epoch's rows.
        longest: Impressions of a request, at most, where the weights rest on it.
        vocabularies: Column -> vocabulary whose ids are delivered in place of its values.
        left_out: Columns that are not delivered because they have no tensor form, such as structs, where no columns
            were named.
        out_of_date: Feature groups that lack rows: name, its rows, those of its grain in words. Found where nothing is
            filtered.
    """

    spec: DatasetSpec
    version: int
    options: ReadOptions
    pins: dict[str, Any]
    source: UnitSource
    units: UnitIndex
    splits: int
    weights: UnitWeights
    lengths: KnownLengths
    totals: Totals = field(default_factory=Totals)
    longest: int | None = None
    vocabularies: Mapping[str, IdVocabulary] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    out_of_date: tuple[tuple[str, int, str], ...] = ()

    @property
    def opened(self) -> dict[str, Any]:
        """Version and options, for the message that refuses a state."""
        return {"version": self.version, "options": self.options.described()}

    @property
    def num_requests(self) -> int:
        """Requests of an epoch; reads all keys where row counts do not say."""
        known = self.totals.requests
        return known if known is not None else sum(map(len, self.units.visit()))

    @property
    def num_impressions(self) -> int:
        """Impressions of an epoch; reads all keys where row counts do not say."""
        known = self.totals.impressions
        return known if known is not None else sum(int(u.lengths.sum()) for u in self.units.visit())

    @property
    def users_not_found(self) -> int:
        """Users that the filters name and that have no request to read."""
        return self.totals.users_not_found

    @property
    def packer(self) -> BatchPacker:
        """Packs tables into batches."""
        schema = self.spec.schema_
        return BatchPacker(schema.user, schema.item, schema.labels, schema.sequence_columns, self.forms)

    @property
    def forms(self) -> Forms:
        """What each column's values become."""
        return Forms(self.options.strings, self.vocabularies, shared=self.options.histories == "shared")

    @property
    def grains(self) -> dict[str, Grain]:
        """Grain of each column that is delivered."""
        source = self.source
        found = dict.fromkeys(source.request_columns, Grain.REQUEST)
        return found | dict.fromkeys(source.impression_columns, Grain.IMPRESSION)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Arrow type of each column that is delivered, by the table that it comes from.

        Others may have a column of the same name, such as one that a rollback has left in the log.
        """
        source = self.source
        read = [(source.requests, source.own_requests), (source.impressions, source.own_impressions)]
        read += [(group.table, group.columns) for group in source.features]
        of_events = {c: pa.list_(e.table.fields[c][1]) for e in source.events if e.beside for c in e.columns}
        types = dict.fromkeys((REQUEST_WEIGHT, IMPRESSION_WEIGHT), pa.float64())
        return types | of_events | {c: ref.fields[c][1] for ref, columns in read for c in columns}

    def decoded(self, block_bytes: float) -> Iterator[Decoded]:
        """Everything that an epoch delivers, as Arrow tables in the order of the files.

        Args:
            block_bytes: Decoded bytes of a piece, about.
        """
        for unit in self.units:
            sizes = unit_sizes(unit, self.options.unit)
            reader = self._reader(unit)
            try:
                for start, stop in pairwise(sizes.block_bounds(block_bytes).tolist()):
                    found = reader.read(start, stop)
                    yield replace(found, requests=plain_lists(found.requests))
            finally:
                reader.close()

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
        sizes = SizesInTurn(self.units, self.lengths, options.unit, self.longest, options.together)
        return EpochOrder(sizes, order, epoch, self.weights)

    def split_reader(
        self, order: SplitOrder, transform: ArrowTransform | None, pool: ThreadPoolExecutor | None = None
    ) -> SplitReader:
        """A reader of one split's batches."""
        first, self.units.decoding = not self.units.decoding, True
        return SplitReader(
            order, lambda number: self._reader(self.units[number]), self.packer, transform, pool, first=first
        )

    def _reader(self, unit: AnyUnit) -> BlockReader:
        return MergedReader(unit, self.source) if isinstance(unit, MergedUnit) else UnitReader(unit, self.source)

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


def make_plan(
    name: str,
    settings: Settings,
    version: int | None,
    options: ReadOptions,
    vocabularies: Mapping[str, IdVocabulary] | None = None,
    cache: FileCache | None = None,
) -> ReadPlan:
    """Open a version: plan its units, and read keys where what is read cannot be known without.

    Raises:
        DatasetNotFoundError, VersionNotFoundError, UnknownColumnError, ConfigError, StorageError.
    """
    cache = cache.for_dataset() if cache is not None else None
    cut = open_cut(name, settings, version)
    spec, user = cut.spec, cut.spec.schema_.user
    kind = dict(zip(spec.source_columns, spec.source_types, strict=True))[user]
    options = options.model_copy(update={"filters": options.filters.of_users(user, kind)})
    _check_buckets(spec, options.filters.buckets)
    sample = resolve_sample(cut, options)
    projection, filters = project(cut, without_weights(options)), sample.filters
    tables = _tables_of(projection)
    planned = {t.name: t.stored.plan(t.name, spec, filters, cache) for t in tables}
    names = list(planned)
    common = with_common_segments(list(planned.values()))
    left = filters_of_rows(filters, spec, dict(zip(names, common, strict=True))[projection.requests.name])
    if options.across_dates:
        _refuse_flat(spec)
        common = by_bucket(common)
    scans = dict(zip(names, common, strict=True))
    requests, impressions = scans[projection.requests.name], scans[projection.impressions.name]
    features = tuple(FeatureScan(g.grain, scans[g.table.name], g.columns) for g in projection.groups)
    events = tuple(_event_scan(each, spec, filters, options, cache) for each in projection.events)
    indexer = SegmentIndexer(
        spec,
        options.model_copy(update={"filters": left}),
        requests,
        impressions,
        projection.own_requests,
        projection.own_impressions,
        features,
        sample.selector,
        projection.conditions,
        {c.table.name: scans[c.table.name] for c in projection.conditions if c.table.role is TableRole.FEATURES},
        pruned=not filters.is_empty,
        events=events,
    )
    indexer.check_segments()
    own = projection.own_requests, projection.own_impressions
    planner = SectionPlanner(requests, impressions, user, *own, merged=options.across_dates)
    units = UnitIndex(indexer, planner.plan())
    # Which rows filters, samples and lengths of lists leave, or count for, is known from the rows alone.
    keyed = not left.is_empty or sample.selector is not None or options.unit is Unit.TOKENS
    if keyed:
        units, weights, totals = counted_first(units, options, set(filters.users or ()))
    else:
        complete = options.orphans == "raise" and filters.is_empty
        weights = planned_weights(spec, options, units.planned, impressions, complete=complete)
        totals = known_totals(spec, requests, impressions, complete=complete)
        if requests.num_rows + impressions.num_rows <= SMALL_ROWS:
            # What is wrong with a small dataset is told when it is opened, since that takes no time.
            totals = counted_first(units, options)[2]
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
        events=tuple(e.source for e in events),
        most=options.history_length,
        cut=projection.cut,
        cut_first=projection.cut_first,
    )
    pins = _pins(cut, options, projection, splits, sample.fingerprint)
    for column, vocabulary in (vocabularies or {}).items():
        if not isinstance(vocabulary, IdVocabulary):
            raise ConfigError(
                f"the column {column} was given no vocabulary",
                expected="what lake.vocabulary or open_vocabulary gives",
                got=type(vocabulary).__name__,
            )
    if vocabularies:
        pins["vocabularies"] = {column: v.digest for column, v in sorted(vocabularies.items())}
    longest = impressions.positions if not keyed and options.unit is Unit.IMPRESSIONS else None
    chosen, lengths = dict(vocabularies or {}), KnownLengths(weights.slots)
    plan = ReadPlan(
        spec, cut.version, options, pins, source, units, splits, weights, lengths, totals, longest, chosen,
        projection.left_out, _out_of_date(spec, projection, scans) if filters.is_empty else (),
    )  # fmt: skip
    _check_vocabularies(plan)
    return plan


def _out_of_date(
    spec: DatasetSpec, projection: Projection, scans: Mapping[str, TableScan]
) -> tuple[tuple[str, int, str], ...]:
    """Feature groups with fewer rows than their grain has, each with its rows and the others in words."""
    tables = {Grain.REQUEST: projection.requests, Grain.IMPRESSION: projection.impressions}
    if spec.layout is Layout.FLAT:
        # Its rows do not tell how many requests there are.
        del tables[Grain.REQUEST]
    found = []
    for group in (group for group in projection.groups if group.grain in tables):
        rows, of = scans[group.table.name].num_rows, scans[tables[group.grain].name].num_rows
        if rows < of:
            found += [(name, rows, counted(of, group.grain.value)) for name in group.whole]
    return tuple(found)


def _check_buckets(spec: DatasetSpec, buckets: Sequence[int] | None) -> None:
    """Refuse buckets that the dataset does not have, which no user is in."""
    wrong = [bucket for bucket in buckets or () if not 0 <= bucket < spec.buckets]
    if wrong:
        raise ConfigError(
            f"the filters name buckets that {spec.name} does not have",
            expected=f"0 to {spec.buckets - 1}",
            got=", ".join(map(str, wrong[:12])),
        )


def _refuse_flat(spec: DatasetSpec) -> None:
    """A flat log tells a request by its key alone, which two dates may share.

    Raises:
        ConfigError: the layout is flat.
    """
    if not spec.layout.divided:
        raise ConfigError(
            "across_dates needs requests in a table of their own",
            expected="layout split or user",
            got=f"layout {spec.layout.value}",
            fix="Convert the dataset, or leave across_dates out.",
        )


def _event_scan(
    events: Events, spec: DatasetSpec, filters: Filters, options: ReadOptions, cache: FileCache | None
) -> EventScan:
    """An event may have appeared first on any date: dates leave no file out."""
    wanted, table, group = Filters(users=filters.users, buckets=filters.buckets), events.table, events.group
    scan = table.stored.plan(table.name, spec.partitioned(table.name), wanted, cache)
    keys = EventKeys(spec.schema_.user, group.position_column)
    return EventScan(group, scan, events.columns, keys, options.history_length, events.beside)


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
    rest = options.asked_for()
    for told in ("columns", "seed", "splits", "filters", "sample"):
        rest.pop(told)
    read = {t.name: t for t in (*_tables_of(projection), *(e.table for e in projection.events))}.values()
    return {
        "order": ORDER,
        "dataset": cut.spec.name,
        "snapshots": {t.name: str(t.snapshot_id) for t in sorted(read, key=lambda t: t.name)},
        "seed": options.seed,
        "splits": splits,
        "columns": fingerprint({"columns": [*projection.request_columns, *projection.impression_columns]}),
        "filters": fingerprint({**options.filters.dumped(), "sample": sample}),
        "options": fingerprint(rest),
    }
