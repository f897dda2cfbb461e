"""What ``Dataset`` can do with samples; each method hands on to the module that does it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame

from dedup_storage.dataset.samples.frames import SampledFrames
from dedup_storage.dataset.samples.make import make_sample, refresh_sample
from dedup_storage.dataset.samples.materialise import materialise_sample
from dedup_storage.dataset.samples.plan import SamplePlan, plan_sample
from dedup_storage.dataset.samples.store import SampleStore
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.lake.runs import named_run
from dedup_storage.sampling.definition import SampleSpec
from dedup_storage.sampling.disjoint import split_specs
from dedup_storage.sampling.summary import SampleReport, SampleSummary, summarize
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated

if TYPE_CHECKING:
    from dedup_storage.dataset.facade import Dataset

__all__ = ["SampleMethods", "sampled"]


class SampleMethods:
    """Named samples of whole users."""

    def sample(
        self: Any, name: str, spec: SampleSpec | Mapping[str, Any] | None = None, *, version: int | None = None,
        run_id: str | None = None, **values: Any,
    ) -> SampleSummary:  # fmt: skip
        """Make a named sample; made already, with the same definition, it is left as it is.

        Args:
            name: Its name.
            spec: Its definition, or the fields of ``SampleSpec`` as keywords.
            version: Version whose users are sampled; ``None`` takes the newest.
            run_id: Name of the run.

        Raises:
            UsageError: the definition is wrong or does not fit the data; nothing is stored, never a smaller sample.

        Example: ``ds.sample("tenth", fraction=0.1)``
        """
        given = spec if isinstance(spec, SampleSpec) else SampleSpec.from_dict({**(spec or {}), **values})
        with translated():
            made, done = make_sample(self, name, given, version=version, run_id=named_run(run_id, "sample"))
            return summarize(self.name, made, unchanged=not done)

    def split_samples(
        self: Any, shares: Mapping[str, float] | None = None,
        dates: Mapping[str, tuple[dt.date | None, dt.date | None]] | None = None, *, seed: int = 0,
        version: int | None = None,
    ) -> list[SampleSummary]:  # fmt: skip
        """Make samples without a row in common, such as train, validation and test; see ``split_specs``."""
        specs = split_specs(shares, dates, seed=seed)
        return [self.sample(name, spec, version=version) for name, spec in specs.items()]

    def samples(self: Any) -> list[SampleSummary]:
        """All named samples."""
        with translated():
            return [summarize(self.name, sample) for sample in SampleStore(self).list()]

    def describe_sample(self: Any, name: str) -> dict[str, Any]:
        """A sample's record: definition, version, counts."""
        with translated():
            return dict(SampleStore(self).load(name).model_dump(mode="json"))

    def refresh_sample(self: Any, name: str, *, version: int | None = None, run_id: str | None = None) -> SampleSummary:
        """Take in the users of a newer version; those known keep their strata."""
        with translated():
            made, done = refresh_sample(self, name, version=version, run_id=named_run(run_id, "sample"))
            return summarize(self.name, made, unchanged=not done)

    def drop_sample(self: Any, name: str) -> None:
        """Forget a sample; no data of the dataset changes."""
        with translated():
            SampleStore(self).drop(name)

    def sample_users(self: Any, name: str, version: int | None = None) -> DataFrame:
        """The sampled users with ``stratum`` and ``user_weight``."""
        with translated():
            return SampledFrames(self, SampleStore(self).load(name), version).users()

    def plan_sample(self: Any, name: str, version: int | None = None) -> SamplePlan:
        """Files and bytes that reading a sample opens."""
        with translated():
            return plan_sample(self, SampleStore(self).load(name), version)

    def sample_report(
        self: Any, name: str, *, verify: bool = False, confidence: float = 0.95, version: int | None = None
    ) -> SampleReport:
        """Estimates with intervals, requested and realised counts, weights; with ``verify`` the truth beside them."""
        from dedup_storage.dataset.samples.report import sample_report

        with translated():
            sample = SampleStore(self).load(name)
            return sample_report(self, sample, verify=verify, confidence=confidence, version=version)

    def materialise_sample(
        self: Any, name: str, target: str, *, version: int | None = None, run_id: str | None = None, gate: bool = True
    ) -> WriteSummary:
        """Write a sample's rows into a dataset of its own, weights as columns."""
        with translated():
            sample = SampleStore(self).load(name)
            return materialise_sample(self, sample, target, version=version, run_id=run_id, gate=gate)


def sampled(ds: Dataset, name: str, df: DataFrame, grain: Grain | None, version: int | None) -> DataFrame:
    """A frame of a dataset cut down to a named sample.

    Args:
        ds: The dataset.
        name: The sample.
        df: ``requests()``, ``impressions()`` or ``logs()``.
        grain: Which of them; ``None`` for the flat log.
        version: The version it was read from.
    """
    with translated():
        frames = SampledFrames(ds, SampleStore(ds).load(name), version)
        if grain is Grain.REQUEST:
            return frames.requests(df)
        return frames.impressions(df) if grain is Grain.IMPRESSION else frames.logs(df)
