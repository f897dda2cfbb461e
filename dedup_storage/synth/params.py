"""SynthParams: what a synthetic log looks like, its presets, and the LogSchema that describes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dedup_storage.documents import Number, WholeNumber
from dedup_storage.errors import ConfigError, known_names
from dedup_storage.schema import ColumnCheck, Grain, LogSchema, SequenceColumn, explain_validation

__all__ = ["PRESETS", "Distribution", "History", "SynthLayout", "SynthParams"]

DAY_US = 86_400_000_000
SECOND_US = 1_000_000
MAX_SEQUENCE_LENGTH = 16_384
# A candidate list never exceeds its mean by more, so that a geometric tail cannot ask for the whole catalogue.
CANDIDATES_CAP = 10


class Distribution(StrEnum):
    """How a count varies about its mean."""

    FIXED = "fixed"
    GEOMETRIC = "geometric"


class SynthLayout(StrEnum):
    """How the rows of the raw log are laid down.

    ``flat``: one row per impression, in order of request time, as logs arrive. ``shuffled``: the same rows in random
    order over all files. ``nested``: one row per request with its list of candidates. ``frames``: a table of requests
    and a table of impressions.
    """

    FLAT = "flat"
    SHUFFLED = "shuffled"
    NESTED = "nested"
    FRAMES = "frames"


class History(StrEnum):
    """The parallel history lists a request can carry."""

    ITEMS = "hist_item_ids"
    TIMES = "hist_times"
    ACTIONS = "hist_actions"


class SynthParams(BaseModel):
    """A synthetic training log; the same parameters give the same bytes.

    Attributes:
        users: Number of users.
        requests_per_user: Mean requests of a user who is not hot.
        requests_distribution: ``fixed``, or ``geometric`` (at least one).
        candidates_per_request: Mean candidates of a request; B / R in expectation.
        candidates_distribution: ``fixed``, or ``geometric`` (from one to ten times the mean).
        sequence_length: Longest history, in events.
        new_events_per_request: By how many events a user's history slides from one request to the next.
        cold_users: Share of users whose history is empty at their first request; all others start full.
        history: Which history lists a request carries.
        items: Catalogue size.
        item_exponent: Zipf exponent s of item popularity: the item of rank r has weight r ** -s.
        hot_users: Share of users with ``hot_factor`` times the requests.
        hot_factor: See ``hot_users``.
        click_rate: Expected label. Users differ: their rates are uniform in [0.5, 1.5) times this.
        late_labels: Share of impressions whose label is null in the log and lands later in the labels table.
        label_delay_seconds: Mean delay of a late label, exponential.
        string_ids: User and request ids as strings instead of bigint.
        seed: Any 64-bit number.
        start: First instant of the log (UTC), whole seconds.
        days: Length of the log in days.
        files: Files per table. In ``flat``, ``nested`` and ``frames`` each covers an equal share of the time.
        layout: How the rows are laid down.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: WholeNumber = Field(default=50, ge=1, le=2**31)
    requests_per_user: WholeNumber = Field(default=6, ge=1)
    requests_distribution: Distribution = Distribution.FIXED
    candidates_per_request: WholeNumber = Field(default=8, ge=1, le=10_000)
    candidates_distribution: Distribution = Distribution.FIXED
    sequence_length: WholeNumber = Field(default=32, ge=0, le=MAX_SEQUENCE_LENGTH)
    new_events_per_request: WholeNumber = Field(default=4, ge=0)
    cold_users: Number = Field(default=0.0, ge=0, le=1)
    history: tuple[History, ...] = tuple(History)
    items: WholeNumber = Field(default=100_000, ge=2, le=50_000_000)
    item_exponent: Number = Field(default=1.05, ge=0, le=3)
    hot_users: Number = Field(default=0.0, ge=0, le=1)
    hot_factor: WholeNumber = Field(default=10, ge=1, le=100_000)
    click_rate: Number = Field(default=0.1, ge=0, le=2 / 3)
    late_labels: Number = Field(default=0.0, ge=0, le=1)
    label_delay_seconds: Number = Field(default=3_600.0, gt=0)
    string_ids: bool = False
    seed: WholeNumber = Field(default=0, ge=0, lt=2**64)
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    days: WholeNumber = Field(default=3, ge=1, le=3_650)
    files: WholeNumber = Field(default=4, ge=1, le=100_000)
    layout: SynthLayout = SynthLayout.FLAT

    @model_validator(mode="after")
    def _consistent(self) -> SynthParams:
        if self.start.tzinfo is None or self.start.microsecond:
            raise ValueError("start: expected whole seconds and a time zone, such as 2026-01-01T00:00:00Z")
        if self.items < 4 * self.most_candidates:
            raise ValueError(
                f"items: at least four times the longest candidate list ({4 * self.most_candidates}), since the "
                "candidates of a request differ"
            )
        if len(set(self.history)) != len(self.history):
            raise ValueError("history: a list is named twice")
        if self.requests_per_user * self.hot_factor * 1_000 > self.days * DAY_US // 1_000:
            raise ValueError("requests_per_user: more than one request a second for a hot user; set more days")
        return self

    @property
    def most_candidates(self) -> int:
        """Longest candidate list possible."""
        fixed = self.candidates_distribution is Distribution.FIXED
        return self.candidates_per_request * (1 if fixed else CANDIDATES_CAP)

    @property
    def start_us(self) -> int:
        """``start`` in microseconds since 1970-01-01."""
        return int(self.start.timestamp()) * SECOND_US

    @property
    def duration_us(self) -> int:
        """Length of the log in microseconds."""
        return self.days * DAY_US

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables the log consists of; each is a directory of ``files`` Parquet files."""
        data = ("requests", "impressions") if self.layout is SynthLayout.FRAMES else ("log",)
        return (*data, "labels") if self.late_labels else data

    def log_schema(self) -> LogSchema:
        """The meaning of the log's columns, for ``write``; buckets and date grain are left to be proposed."""
        longest = self.sequence_length or None
        return LogSchema(
            user="user_id",
            request=("request_id",),
            item="item_id",
            event_time="request_time",
            columns={"country": Grain.REQUEST, "device": Grain.REQUEST, "price": Grain.IMPRESSION},
            sequences=tuple(
                SequenceColumn(column=h.value, group="history", times=h is History.TIMES, max_length=longest)
                for h in self.history
            ),
            labels=("label",),
            candidates={"candidates": "*"} if self.layout is SynthLayout.NESTED else {},
            checks={
                "label": ColumnCheck(allowed=(0, 1), not_null=not self.late_labels),
                "price": ColumnCheck(not_null=True, minimum=0),
            },
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SynthParams:
        """Validate plain values.

        Raises:
            ConfigError: names each parameter that is unknown or out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("the log's parameters are not valid: " + explain_validation(error, cls)) from None

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> SynthParams:
        """A named set of parameters, some of them replaced.

        Raises:
            ConfigError: no such preset, or a parameter that is unknown or out of range.
        """
        if name not in PRESETS:
            raise ConfigError(f"the preset {name} does not exist", expected=known_names(name, PRESETS))
        return cls.from_dict({**PRESETS[name], **overrides})


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Some of everything, in a second.
    "small": {
        "requests_distribution": "geometric",
        "candidates_distribution": "geometric",
        "cold_users": 0.1,
        "items": 2_000,
        "hot_users": 0.04,
        "hot_factor": 8,
        "late_labels": 0.1,
    },
    # The log of the README's measurements: one list of ids, every history full, every count fixed.
    "bench": {
        "users": 200,
        "requests_per_user": 10,
        "candidates_per_request": 20,
        "sequence_length": 2_000,
        "new_events_per_request": 20,
        "history": ["hist_item_ids"],
        "days": 1,
    },
    # Histories as long as they come.
    "long": {
        "users": 32,
        "requests_per_user": 6,
        "candidates_per_request": 10,
        "sequence_length": MAX_SEQUENCE_LENGTH,
        "new_events_per_request": 64,
        "days": 1,
    },
}
