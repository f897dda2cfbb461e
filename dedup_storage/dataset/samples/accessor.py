"""Named samples of a dataset as ``Dataset.samples`` gives them; each method hands on to the module that does it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from pyspark.sql import DataFrame

from dedup_storage.dataset.handle import Handle, open_handle
from dedup_storage.dataset.lineage import Accounts, run_told
from dedup_storage.dataset.samples.frames import SampledFrames
from dedup_storage.dataset.samples.make import make_sample, refresh_sample
from dedup_storage.dataset.samples.materialise import materialise_sample
from dedup_storage.dataset.samples.plan import SamplePlan, plan_sample
from dedup_storage.dataset.samples.report import sample_report
from dedup_storage.dataset.samples.store import SampleStore
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.errors import UsageError
from dedup_storage.lake.runs import named_run
from dedup_storage.sampling.definition import Caps, Measure, SampleSpec, Stratum
from dedup_storage.sampling.disjoint import split_specs
from dedup_storage.sampling.summary import SampleReport, SampleSummary, summarize
from dedup_storage.spark.errors import translated

__all__ = ["SampleFields", "Samples"]


class SampleFields(TypedDict, total=False):
    """The fields of ``SampleSpec`` as plain values, each of which may be left out."""

    fraction: float
    fractions: Mapping[str, float]
    targets: Mapping[str, int]
    size: int
    allocation: str
    minimum: int
    by: Measure | str
    buckets: int
    offset: float
    seed: int
    strata: Sequence[Stratum | Mapping[str, Any]]
    start: dt.date | str
    end: dt.date | str
    caps: Caps | Mapping[str, Any]


class Samples:
    """Named samples of whole users.

    Calling it lists them: ``ds.samples()``.

    Args:
        handle: The dataset.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __call__(self) -> list[SampleSummary]:
        """All named samples."""
        with translated():
            return [summarize(self._handle.name, sample) for sample in SampleStore(self._handle).list()]

    def make(
        self,
        name: str,
        spec: SampleSpec | Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        run_id: str | None = None,
        dry_run: bool = False,
        **fields: Unpack[SampleFields],
    ) -> SampleSummary:
        """Make a named sample; made already, with the same definition, it is left as it is.

        Args:
            name: Its name.
            spec: Its definition.
            fields: Or its fields, by the names of ``SampleSpec``; another name is refused.
            version: Version whose users are sampled; ``None`` takes the newest.
            run_id: Name of the run.
            dry_run: Count the users that it would have, and change nothing.

        Raises:
            UsageError: the definition is wrong or does not fit the data; nothing is stored, never a smaller sample.

        Example: ``ds.samples.make("tenth", fraction=0.1)``
        """
        if isinstance(spec, SampleSpec) and fields:
            raise UsageError(
                f"fields of the sample {name} are given beside a whole definition, which would not take them",
                got=", ".join(sorted(fields)),
                fix="Give one of the two, or a mapping and fields.",
            )
        definition = spec if isinstance(spec, SampleSpec) else SampleSpec.from_dict({**(spec or {}), **fields})
        named = named_run(run_id, "sample")

        def work() -> SampleSummary:
            with translated():
                sample, made = make_sample(
                    self._handle.for_run(), name, definition, version=version, run_id=named, dry_run=dry_run
                )
                return summarize(self._handle.name, sample, unchanged=not made, dry_run=dry_run)

        return self._told("sample", name, named, work, dry_run)

    def split(
        self,
        shares: Mapping[str, float] | None = None,
        dates: Mapping[str, tuple[dt.date | None, dt.date | None]] | None = None,
        *,
        seed: int = 0,
        version: int | None = None,
        dry_run: bool = False,
    ) -> list[SampleSummary]:
        """Make samples without a row in common, such as train, validation and test; see ``split_specs``.

        With ``dry_run`` only count the users that they would have.
        """
        specs = split_specs(shares, dates, seed=seed)
        with translated():
            version = self._handle.cut(version).version
        return [self.make(name, spec, version=version, dry_run=dry_run) for name, spec in specs.items()]

    def describe(self, name: str) -> dict[str, Any]:
        """A sample's record: definition, version, counts."""
        with translated():
            return dict(SampleStore(self._handle).load(name).model_dump(mode="json"))

    def refresh(
        self, name: str, *, version: int | None = None, run_id: str | None = None, dry_run: bool = False
    ) -> SampleSummary:
        """Take in the users of a newer version; users that are known keep their strata. With ``dry_run`` only count."""
        named = named_run(run_id, "sample")

        def work() -> SampleSummary:
            with translated():
                sample, refreshed = refresh_sample(
                    self._handle.for_run(), name, version=version, run_id=named, dry_run=dry_run
                )
                return summarize(self._handle.name, sample, unchanged=not refreshed, dry_run=dry_run)

        return self._told("refresh-sample", name, named, work, dry_run)

    def drop(self, name: str, *, dry_run: bool = False) -> None:
        """Forget a sample; the dataset's own rows stay as they are. With ``dry_run`` only see whether it is there.

        Raises:
            UsageError: there is none of that name; names those that do exist.
        """
        with translated():
            SampleStore(self._handle).drop(name, dry_run=dry_run)

    def users(self, name: str, version: int | None = None) -> DataFrame:
        """The sampled users with ``stratum`` and ``user_weight``."""
        with translated():
            return SampledFrames(self._handle, SampleStore(self._handle).load(name), version).users()

    def plan(self, name: str, version: int | None = None) -> SamplePlan:
        """Files and bytes that reading a sample opens, from metadata alone."""
        with translated():
            return plan_sample(self._handle, SampleStore(self._handle).load(name), version)

    def report(
        self, name: str, *, verify: bool = False, confidence: float = 0.95, version: int | None = None
    ) -> SampleReport:
        """Estimates with intervals, requested and realised counts, weights; with ``verify`` the truth beside them."""
        with translated():
            sample = SampleStore(self._handle).load(name)
            return sample_report(self._handle.for_run(), sample, verify=verify, confidence=confidence, version=version)

    def materialise(
        self,
        name: str,
        target: str,
        *,
        version: int | None = None,
        run_id: str | None = None,
        gate: bool = True,
        dry_run: bool = False,
    ) -> WriteSummary:
        """Write a sample's rows into a dataset of its own, weights as columns; with ``dry_run`` only count them."""
        with translated():
            handle, sample = self._handle.for_run(), SampleStore(self._handle).load(name)
            number = handle.metadata().resolve(version)
            named = run_id if run_id is not None else f"sample-{sample.name}-v{number}"
            return run_told(
                handle, "materialise-sample", named,
                lambda: materialise_sample(
                    handle, sample, target, version=number, run_id=named, gate=gate, dry_run=dry_run
                ),
                lambda accounts, done: Accounts(open_handle(handle.spark, handle.settings, target)).write(
                    done, accounts.sources(number, [table.name for table in handle.spec.tables])
                ),
                subject=name, dry_run=dry_run,
            )  # fmt: skip

    def _told(
        self, job: str, name: str, run_id: str, work: Callable[[], SampleSummary], dry_run: bool
    ) -> SampleSummary:
        return run_told(
            self._handle, job, run_id, work, lambda accounts, done: accounts.sample(done, run_id),
            subject=name, dry_run=dry_run,
        )  # fmt: skip
