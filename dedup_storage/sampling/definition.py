"""What a sample is: its definition, given by people, and its record, stored with the dataset. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dedup_storage.documents import Number, WholeNumber
from dedup_storage.errors import UsageError
from dedup_storage.sampling.allocation import Allocation
from dedup_storage.sampling.estimate import Design
from dedup_storage.sampling.hashing import POINTS, limit
from dedup_storage.schema import check_name, explain_validation

__all__ = ["Caps", "How", "Keep", "Measure", "Sample", "SampleSpec", "Stratum", "StratumCount"]


class Measure(StrEnum):
    """What a stratum can depend on.

    ``requests``, ``impressions``: how many. ``label_rate``: mean of the first label over all impressions.
    ``sequence_length``: mean length of the first history list over all requests. ``tenure_days``: days from the first
    to the last request. ``recency_days``: days from the last request to the last one in the dataset.
    """

    REQUESTS = "requests"
    IMPRESSIONS = "impressions"
    LABEL_RATE = "label_rate"
    SEQUENCE_LENGTH = "sequence_length"
    TENURE_DAYS = "tenure_days"
    RECENCY_DAYS = "recency_days"


class How(StrEnum):
    """Which value of a request column is the user's."""

    LATEST = "latest"
    EARLIEST = "earliest"
    MIN = "min"
    MAX = "max"
    MEAN = "mean"


class Keep(StrEnum):
    """Which requests a cap keeps."""

    LATEST = "latest"
    EARLIEST = "earliest"
    RANDOM = "random"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stratum(_Frozen):
    """One way to divide the users; several are crossed.

    Exactly one of ``column``, ``measure`` and ``expression``; numbers are divided by ``quantiles`` or ``cuts``, whose
    borders are stored, so that users who come later are divided alike.

    Attributes:
        name: Its name; a stratum's label is ``name=value``, crossed ones are joined by commas.
        column: A request-grain column.
        how: Which of its values is the user's.
        measure: See ``Measure``.
        expression: A SQL aggregate over the user's requests, such as ``count(DISTINCT device)``.
        quantiles: Number of equally filled parts, numbered from 1; equal values stay together.
        cuts: Ascending borders; a value belongs to the part whose lower border it reaches.
    """

    name: str
    column: str | None = None
    how: How = How.LATEST
    measure: Measure | None = None
    expression: str | None = None
    quantiles: WholeNumber | None = Field(default=None, ge=2, le=100)
    cuts: tuple[Number, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Stratum:
        check_name(self.name, "stratum name")
        if sum(v is not None for v in (self.column, self.measure, self.expression)) != 1:
            raise ValueError(f"the stratum {self.name} needs one of column, measure and expression")
        if self.quantiles is not None and self.cuts:
            raise ValueError(f"the stratum {self.name} has quantiles and cuts; one of them divides it")
        if list(self.cuts) != sorted(set(self.cuts)):
            raise ValueError(f"the cuts of the stratum {self.name} do not ascend")
        if self.measure is not None and self.quantiles is None and not self.cuts:
            raise ValueError(f"the stratum {self.name} needs quantiles or cuts to divide {self.measure.value}")
        return self


class Caps(_Frozen):
    """Limits inside a user.

    Attributes:
        requests: Most requests of a user.
        keep: Which ones. ``latest`` and ``earliest`` are no random choice: estimates then speak of these requests.
        impressions: Most impressions of a request. All positives stay, and at least one negative where there is one,
            for nothing else could stand for the negatives; so a request of many positives may exceed it.
        negatives: Share of the negatives to keep, by stratum label, ``*`` for all others; each by a hash of its own.
        label: Label column whose values above 0 are positives; ``None`` takes the first.
    """

    requests: WholeNumber | None = Field(default=None, ge=1)
    keep: Keep = Keep.LATEST
    impressions: WholeNumber | None = Field(default=None, ge=1)
    negatives: Mapping[str, Number] = Field(default_factory=dict)
    label: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Caps:
        if self.impressions is not None and self.negatives:
            raise ValueError("impressions and negatives exclude each other")
        for name, share in self.negatives.items():
            if not 0 < share <= 1:
                raise ValueError(f"the share of negatives of {name} is {share}: more than 0 and at most 1 is possible")
        return self

    @property
    def random(self) -> bool:
        """Whether chance decides inside a user."""
        within = self.requests is not None and self.keep is Keep.RANDOM
        return within or self.impressions is not None or bool(self.negatives)

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.requests is not None or self.impressions is not None or bool(self.negatives)


class SampleSpec(_Frozen):
    """Which users, which of their days, and how much of each.

    Exactly one of ``fraction``, ``fractions``, ``targets``, ``size`` and ``buckets``.

    Attributes:
        fraction: Share of the users, by hash.
        fractions: Share by stratum label; ``*`` stands for all others. A stratum named nowhere is an error.
        targets: Exact number of users by stratum label, those with the lowest points; strata not named give none.
        size: Users in all, divided among the strata by ``allocation``.
        allocation: ``proportional``, ``equal`` or ``neyman``.
        minimum: Fewest users of a stratum, with ``size``.
        by: Measure whose spread ``neyman`` goes by.
        buckets: Number of user buckets to take whole, by a hash of their number.
        offset: Where the range of points begins, with ``fraction`` or ``fractions``: ranges of one seed that do not
            overlap give disjoint samples, ranges inside each other nested ones.
        seed: Seed of the hash.
        strata: How users are divided.
        start, end: First and last event date (inclusive).
        caps: Limits inside a user.
    """

    fraction: Number | None = None
    fractions: Mapping[str, Number] = Field(default_factory=dict)
    targets: Mapping[str, WholeNumber] = Field(default_factory=dict)
    size: WholeNumber | None = Field(default=None, ge=1)
    allocation: Allocation = Allocation.PROPORTIONAL
    minimum: WholeNumber = Field(default=0, ge=0)
    by: Measure | None = None
    buckets: WholeNumber | None = Field(default=None, ge=1)
    offset: Number = Field(default=0.0, ge=0, lt=1)
    seed: WholeNumber = Field(default=0, ge=0, lt=2**63)
    strata: tuple[Stratum, ...] = ()
    start: dt.date | None = None
    end: dt.date | None = None
    caps: Caps = Caps()

    @model_validator(mode="after")
    def _consistent(self) -> SampleSpec:
        kinds = {
            "fraction": self.fraction is not None, "fractions": bool(self.fractions), "targets": bool(self.targets),
            "size": self.size is not None, "buckets": self.buckets is not None,
        }  # fmt: skip
        named = [name for name, present in kinds.items() if present]
        if len(named) != 1:
            raise ValueError(f"one of {', '.join(kinds)} must be given; got {', '.join(named) or 'none of them'}")
        shares = dict(self.fractions)
        if self.fraction is not None:
            shares["fraction"] = self.fraction
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"the fraction of {name} is {share}: 0 to 1 is possible")
            if self.offset + share > 1 + 1e-12:
                raise ValueError(f"offset {self.offset} and the fraction {share} of {name} reach beyond 1")
        if self.offset and not shares:
            raise ValueError("offset goes with fraction or fractions")
        if (self.fractions or self.targets) and not self.strata:
            raise ValueError("fractions and targets need strata")
        if self.buckets is not None and self.strata:
            raise ValueError("whole buckets cannot be taken by strata")
        if len({s.name for s in self.strata}) != len(self.strata):
            raise ValueError("strata: a name is given twice")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"start {self.start} lies after end {self.end}")
        if (self.by is not None) != (self.size is not None and self.allocation is Allocation.NEYMAN):
            raise ValueError("by goes with size and the allocation neyman")
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleSpec:
        """Validate plain values.

        Raises:
            UsageError: names each value that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError("the sample's definition is not valid: " + explain_validation(error, cls)) from None

    def refuse_idle(self) -> None:
        """Refuse fields that change nothing beside the others; a stored definition that has some is read all the same.

        Raises:
            UsageError: names the field and what it goes with.
        """
        caps = self.caps
        idle = {
            "minimum": (self.minimum and self.size is None, "size"),
            "allocation": (self.allocation is not Allocation.PROPORTIONAL and self.size is None, "size"),
            "caps.keep": (caps.keep is not Keep.LATEST and caps.requests is None, "caps.requests"),
            "caps.label": (caps.label and caps.impressions is None and not caps.negatives,
                           "caps.impressions or caps.negatives"),
        }  # fmt: skip
        for field, (given, other) in idle.items():
            if given:
                raise UsageError(
                    f"{field} does nothing in the definition of a sample without {other}", fix=f"Leave out {field}."
                )

    def points(self, fraction: float | None = None) -> tuple[int, int]:
        """Range of points of a share (``None``: of ``fraction``, or all), the end exclusive; see ``hashing``."""
        share = fraction if fraction is not None else 1.0 if self.fraction is None else self.fraction
        low = limit(self.offset)
        return low, min(limit(self.offset + share), POINTS)

    @property
    def stored(self) -> bool:
        """Whether the chosen users must be stored; otherwise the hash alone tells."""
        return bool(self.strata) or bool(self.targets) or self.size is not None

    @property
    def design(self) -> Design:
        """How elements come into the sample."""
        if self.caps.random:
            return Design.CAPPED
        if self.buckets is not None:
            return Design.BUCKETS
        return Design.COUNTS if self.targets or self.size is not None else Design.SHARES


class StratumCount(_Frozen):
    """One stratum of a sample.

    Attributes:
        label: Its label; ``all`` without strata.
        users: N_h.
        sampled: n_h.
        probability: pi_h, the probability of each of its users; n_h / N_h for exact counts.
        requested: What the definition asked for: users, or ``None`` for a share.
    """

    label: str
    users: int
    sampled: int
    probability: float
    requested: int | None = None

    @property
    def weight(self) -> float:
        """1 / pi_h: what each of its users stands for; 0 for a stratum that gives none."""
        return 1 / self.probability if self.probability else 0.0


class Sample(_Frozen):
    """A named sample as it is stored: a property of the anchor table, and for stored users a table.

    Attributes:
        name: Its name.
        spec: Its definition.
        version: The version whose users it was made from.
        run_id: The run that made it last.
        created_ms: When, in milliseconds since the epoch.
        strata: Counts.
        borders: Borders of each divided stratum.
        table, tag: Where the users are stored, a table's tagged snapshot; ``None`` for a sample by hash alone. A tag,
            since erasing a user rewrites snapshots and moves their tags.
        chosen_buckets: Buckets of a bucket sample; else those that hold all of its users, none where that is every one.
        of_buckets: How many buckets the dataset had that these are numbers of; ``None`` in records of former releases,
            whose datasets never had another count.
    """

    format_version: int = 1
    name: str
    spec: SampleSpec
    version: int
    run_id: str
    created_ms: int
    strata: tuple[StratumCount, ...]
    borders: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    table: str | None = None
    tag: str | None = None
    chosen_buckets: tuple[int, ...] = ()
    of_buckets: int | None = None

    def buckets_among(self, count: int) -> tuple[int, ...]:
        """The chosen buckets for a version that has so many; none, where they tell nothing of it.

        Raises:
            UsageError: the sample is made of whole buckets of another count.
        """
        if not self.chosen_buckets or self.of_buckets in (None, count):
            return self.chosen_buckets
        if self.spec.buckets is not None:
            raise UsageError(
                f"the sample {self.name} takes whole user buckets of {self.of_buckets}, and the version has {count}",
                expected=f"a version of {self.of_buckets} buckets",
                fix="Name such a version, or drop the sample and make it again.",
            )
        return ()

    @property
    def users(self) -> int:
        """Users in the sample."""
        return sum(s.sampled for s in self.strata)

    @property
    def fingerprint(self) -> str:
        """What a reader's state must agree with: changes with every refresh that changes something."""
        return self.model_dump_json(exclude={"created_ms", "run_id", "version", "strata", "of_buckets"})
