"""One conversion: part by part, each written, published and compared with its source before the next.

A run that was stopped goes on: parts that are published are known by their run ids, and the version that is read is
pinned until the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

from dedup_storage.choices import choice
from dedup_storage.config import Settings
from dedup_storage.dataset.convert.encodings import kept_dictionaries
from dedup_storage.dataset.convert.keep import Kept, find_kept
from dedup_storage.dataset.convert.parts import Part, PartRows, find_parts
from dedup_storage.dataset.convert.summary import ConvertSummary, PartCheck
from dedup_storage.dataset.convert.take_along import conversion_source, copy_group, copy_sample
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.write.agreement import refuse_epochs
from dedup_storage.dataset.write.create import dictionaries_of, epochs_for, log_dates
from dedup_storage.dataset.write.groups import propose_groups
from dedup_storage.dataset.write.run import write_log
from dedup_storage.errors import DatasetExistsError, LostRacesError, StorageError, UsageError, VersionNotFoundError
from dedup_storage.faults import reached
from dedup_storage.lake.branch import goes_on
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.requests import REQUEST, Request
from dedup_storage.lake.runs import conversion_pin
from dedup_storage.layout import DatasetSpec, EpochGrain, Layout, ProposedGroup, TableRole
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import DateGrain
from dedup_storage.sources.glance import dictionary_columns
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.table_properties import Dictionaries
from dedup_storage.variables import ENV_PREFIX

__all__ = ["Conversion"]

# Parts done, all parts, stored bytes written, stored bytes of the source.
Progress = Callable[[int, int, int, int], None]


class Conversion(TimedSteps):
    """Writes a dataset's newest (or a named) version into a dataset of another layout, format or segments.

    Args:
        source: What is read.
        settings: Of the target: its table format and warehouse.
        name: Name of the target.
        layout, date_grain, buckets: Of the target; ``None`` keeps the source's.
        epoch_grain: Of a target in layout ``user``; ``None`` keeps the source's, or proposes one.
        version: ``None`` takes the source's newest.
        run_id: The run; running it again goes on where it stopped.
        drop_features: Leave the source's feature groups behind.
        progress: Called with the parts done, all parts, stored bytes written and those of the source.
    """

    def __init__(
        self,
        source: Handle,
        settings: Settings,
        name: str,
        *,
        layout: Layout | str | None = None,
        date_grain: DateGrain | str | None = None,
        buckets: int | None = None,
        epoch_grain: EpochGrain | str | None = None,
        version: int | None = None,
        run_id: str,
        drop_features: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.source, self.settings, self.name, self.run_id = source, settings, name, run_id
        self.layout = None if layout is None else choice(Layout, layout, "layout")
        self.date_grain = None if date_grain is None else choice(DateGrain, date_grain, "date grain")
        self.buckets = buckets
        self.epoch_grain = None if epoch_grain is None else choice(EpochGrain, epoch_grain, "epoch grain")
        self.version, self.drop_features = version, drop_features
        self.progress = progress or (lambda done, of, written, planned: None)
        self.seconds: dict[str, float] = {}
        self._written = 0
        self._spec: DatasetSpec | None = None
        self._groups: Sequence[ProposedGroup] = ()
        self._pin = conversion_pin(run_id)

    def run(self) -> ConvertSummary:
        """Do it.

        Raises:
            UsageError: what is asked for cannot be done; nothing was changed.
            StorageError: a part differs from its source; the target keeps the parts before it.
        """
        cut = self._source_cut()
        version = cut.version
        kept = self._kept(cut)
        target = self._target(cut)
        self.source.tables.pin(self.source.spec, version, self._pin)
        rows = self._rows(cut)
        with self.timed("parts"):
            parts = find_parts(rows, cut.spec.buckets)
        reached("convert:begun")
        planned = _stored(self.source, version)
        checks, done = [], 0
        for number, part in enumerate(parts):
            check, was_done = self._convert(rows, target, part)
            done += was_done
            if check.requests:
                checks.append(check)
            self.progress(number + 1, len(parts), self._written, planned)
            reached(f"convert:part-{number}")
        self._refuse_lost(cut, checks)
        with self.timed("features and samples"):
            for group in kept.groups:
                run_id = f"{self.run_id}.features.{group.name}"
                copy_group(cut, target, group, run_id, outdated=group.name in kept.outdated)
            for sample in kept.samples:
                copy_sample(self.source, target, sample, f"{self.run_id}.samples")
        written = target.metadata()
        self.source.tables.unpin(self.source.spec, version, self._pin)
        return self._summary(cut, kept, target.spec, planned).model_copy(
            update={
                "version": written.current,
                "dry_run": False,
                "parts": tuple(checks),
                "already_done": done,
                "requests": sum(c.requests for c in checks),
                "impressions": sum(c.impressions for c in checks),
                "target_bytes": _stored(target, written.current),
                "hints": tuple(self._hints(kept)),
                "seconds": self.seconds,
            }
        )

    def _hints(self, kept: Kept) -> Iterator[str]:
        if self.settings.format != self.source.tables.name:
            name = self.settings.format
            yield f"commands find it where the settings say format: {name}, or with {ENV_PREFIX}FORMAT={name}"
        for name in sorted(kept.outdated):
            yield f"refresh the feature group {name}, which was out of date"

    def plan(self) -> ConvertSummary:
        """What it would do; nothing is written.

        Raises:
            UsageError, DatasetExistsError: it cannot be done.
        """
        cut = self._source_cut()
        kept, spec = self._kept(cut), self._target_spec(cut)
        self._refuse_other(table_format(self.source.spark, self.settings).find(self.name), spec, cut)
        return self._summary(cut, kept, spec, _stored(self.source, cut.version))

    def _summary(self, cut: Cut, kept: Kept, spec: DatasetSpec, source_bytes: int) -> ConvertSummary:
        """What is known before anything is done."""
        return ConvertSummary(
            source=self.source.name,
            source_version=cut.version,
            source_format=self.source.tables.name,
            source_layout=cut.spec.layout.value,
            target=self.name,
            version=0,
            target_format=self.settings.format,
            target_layout=spec.layout.value,
            date_grain=spec.date_grain.value,
            buckets=spec.buckets,
            epoch_grain=spec.told_epochs,
            run_id=self.run_id,
            dry_run=True,
            source_bytes=source_bytes,
            features=tuple(group.name for group in kept.groups),
            samples=tuple(sample.name for sample in kept.samples),
            left=kept.left,
        )

    def _source_cut(self) -> Cut:
        """The version that an earlier attempt pinned, else the one asked for."""
        meta = self.source.metadata()
        pinned = (number for number in meta.version_numbers if self._pin in meta.pins(number))
        version = next(pinned, None)
        if version is not None and self.version not in (None, version):
            raise UsageError(
                f"the conversion {self.run_id} was begun with another version of {self.source.name}",
                expected=f"version {version}",
                got=f"version {self.version}",
                fix="Give what it was begun with to finish it, or another run id and name.",
            )
        return Cut(self.source, meta, meta.resolve(self.version) if version is None else version)

    def _kept(self, cut: Cut) -> Kept:
        """What is taken along, and what is left."""
        format = self.settings.format
        return find_kept(cut, self._target_spec(cut), format, drop_features=self.drop_features, pin=self._pin)

    def _target_spec(self, cut: Cut) -> DatasetSpec:
        """The target's description; what is found for it is looked for once."""
        if self._spec is None:
            own = cut.spec
            layout = self.layout or own.layout
            refuse_epochs(self.name, layout, own.schema_, self.epoch_grain)
            self._groups = self._event_groups(cut) if layout is Layout.USER else ()
            self._spec = DatasetSpec.build(
                self.name,
                own.schema_,
                dict(zip(own.source_columns, own.source_types, strict=True)),
                layout=layout,
                date_grain=self.date_grain or own.date_grain,
                buckets=self.buckets or own.buckets,
                groups=self._groups,
                epoch_grain=self._epochs(cut) if self._groups else EpochGrain.MONTH,
            )
        return self._spec

    def _event_groups(self, cut: Cut) -> Sequence[ProposedGroup]:
        """Groups of the target's events: those of the source, those that an earlier attempt found, or found now."""
        known = cut.spec.events or (self._begun.events if self._begun else ())
        if known:
            return [ProposedGroup(g.name, g.columns, g.newest_first) for g in known]
        with self.timed("groups"), translated():
            return propose_groups(self._rows(cut).raw(), cut.spec.schema_)

    def _epochs(self, cut: Cut) -> EpochGrain:
        """Epochs of the target's events: those asked for, of the source, of an earlier attempt, or proposed."""
        if self.epoch_grain:
            return self.epoch_grain
        known = cut.spec if cut.spec.events else self._begun
        if known:
            return known.epoch_grain
        grain, size = self.date_grain or cut.spec.date_grain, partial(_stored, self.source, cut.version)
        with self.timed("groups"), translated():
            return epochs_for(grain, lambda: log_dates(self._rows(cut).raw(), cut.spec.schema_)[0], size)

    @cached_property
    def _begun(self) -> DatasetSpec | None:
        """The target as an earlier attempt created it."""
        begun = table_format(self.source.spark, self.settings).find(self.name)
        return None if begun is None else begun.original

    def _target(self, cut: Cut) -> Handle:
        """Create the target, or open what an earlier attempt of this run created."""
        spec = self._target_spec(cut)
        tables = table_format(self.source.spark, self.settings)
        existing = tables.find(self.name)
        if existing is None:
            columns = dict(zip(spec.source_columns, spec.source_types, strict=True))
            columns.setdefault(spec.position_column, "int")
            if spec.event_date_column:
                columns.setdefault(spec.event_date_column, "date")
            tables.create(spec, columns, dictionaries=self._dictionaries(cut, spec))
            existing = tables.settle(spec)
        self._refuse_other(existing, spec, cut)
        return Handle(self.source.spark, self.settings, spec, tables)

    def _dictionaries(self, cut: Cut, spec: DatasetSpec) -> Dictionaries:
        """Columns of the target's tables that take a dictionary: as the source has them, or as they were found."""
        kept = kept_dictionaries(cut)
        lists = {c for table in cut.spec.tables if table.role is not TableRole.EVENTS for c in kept[table.name]}
        if cut.spec.adopted:
            # Its writer chose none: it is looked at as any log.
            lists = {*dictionary_columns(self._rows(cut).raw(), cut.spec.schema_)}
        if cut.spec.events:
            return {table.name: kept.get(table.name, lists) for table in spec.tables}
        return dictionaries_of(spec, self._groups, lists)

    def _refuse_other(self, existing: DatasetMetadata | None, spec: DatasetSpec, cut: Cut) -> None:
        """Refuse a target that another run began, or this one of another source: its parts would be mixed with ours."""
        if existing is None:
            return
        claims = {number: existing.claim(number) for number in existing.version_numbers}
        runs = {facts.get("run-id", "") for facts in claims.values()}
        if existing.original != spec or any(not run.startswith(f"{self.run_id}.") for run in runs):
            raise DatasetExistsError(
                f"the dataset {self.name} exists and was not begun by this run",
                fix="Choose another name, or go on with --run-id of the run that began it.",
            )
        asked = self._asked(cut)
        for number, facts in claims.items():
            kept = Request.from_text(facts.get(REQUEST))
            if kept is not None:
                # Each part says more, such as its feature group.
                asked.require_same(kept.only(asked.inputs).text, self.run_id, number)

    def _convert(self, rows: PartRows, target: Handle, part: Part) -> tuple[PartCheck, bool]:
        """Write a part unless an earlier attempt did, and compare; also whether one did."""
        with self.timed("check"):
            wanted = rows.check(part)
        if not wanted.requests:
            return wanted, False
        asked = self._asked(rows.cut)
        try:
            with self.timed("write"):
                summary = write_log(
                    target, rows.raw(part), run_id=f"{self.run_id}.{part.name}", gate=False, request=asked
                )
        except (StorageError, LostRacesError) as error:
            raise error.advised(goes_on(self.run_id)) from error
        self._written += sum(t.bytes for t in summary.tables)
        # A part that an earlier attempt published was compared only if that attempt lived on.
        if summary.version in target.metadata().version_numbers:
            with self.timed("check"):
                written = replace(rows, cut=target.cut(summary.version)).check(part)
            if written != wanted:
                raise StorageError(
                    f"the part {part.name} of {self.name} differs from that of {self.source.name}",
                    expected=_sums(wanted),
                    got=_sums(written),
                    fix="Requests without impressions have no row in flat layout. Drop the target and its files.",
                )
        return wanted, summary.already_published

    def _refuse_lost(self, cut: Cut, checks: Sequence[PartCheck]) -> None:
        """Every row must have been in one of the parts."""
        anchor = cut.spec.anchor
        stored = cut.meta.rows(cut.version).get(anchor.name)
        found = sum(c.requests if anchor.role is TableRole.REQUESTS else c.impressions for c in checks)
        if stored is not None and stored != found:
            raise StorageError(
                f"the parts of {self.source.name} do not have all of its rows",
                expected=f"{stored} rows of {anchor.name}",
                got=f"{found}",
                fix="Check the source: dedup-storage check. Drop the target and its files.",
            )

    def _asked(self, cut: Cut) -> Request:
        """What a part is written from: a version never changes, so its rows need not be looked at."""
        source = conversion_source(cut)
        return source.with_texts(feature_groups="left" if self.drop_features else "taken along")

    def _rows(self, cut: Cut) -> PartRows:
        # Parts are told apart by the buckets of the version that is read, in the target too; today's may be others.
        return PartRows(cut, self.source.tables.bucket(cut.spec))


def _sums(check: PartCheck) -> str:
    return (
        f"{check.requests} requests (sum {check.request_sum}) and {check.impressions} impressions "
        f"(sum {check.impression_sum})"
    )


def _stored(dataset: Handle, version: int) -> int:
    """Bytes of a version's files; 0 for a version that is not there."""
    try:
        return sum(t.size_bytes for t in dataset_files(dataset.settings, dataset.name, version).tables)
    except VersionNotFoundError:
        return 0
