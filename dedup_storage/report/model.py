"""The compression report as data. Its JSON is versioned: a reader checks ``format`` and refuses what it does not know.

``format`` 1: fields are only ever added; a field that changes its meaning makes format 2. All sizes are bytes.
``docs/compression-report.schema.json`` describes it as JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dedup_storage.errors import InputError
from dedup_storage.schema import explain_validation

__all__ = [
    "Baseline",
    "ColumnReport",
    "Curve",
    "DrawSize",
    "PartReport",
    "Range",
    "Report",
    "TableReport",
    "UserGrain",
    "UserLists",
    "json_schema",
    "load_report",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Frozen):
    """A value with its 95 % interval; without width it was measured."""

    value: float
    low: float
    high: float


class TableReport(_Frozen):
    """One table, from its footers.

    Attributes:
        size_bytes: File sizes; equals ``column_bytes`` plus ``overhead_bytes``.
        column_bytes: Column chunks.
        overhead_bytes: Footers, page indexes and magic numbers.
        delete_bytes, deleted_rows: Delete files and deletion vectors beside the data files.
    """

    name: str
    role: str
    files: int
    rows: int
    row_groups: int
    size_bytes: int
    column_bytes: int
    overhead_bytes: int
    delete_files: int = 0
    delete_bytes: int = 0
    deleted_rows: int = 0


class ColumnReport(_Frozen):
    """One column of one table.

    Attributes:
        grain: ``request`` or ``impression``, or ``event`` for columns of an events' table; ``None`` for system columns.
        sequence: Part of the histories: a list of the log; in layout ``user`` runs and all columns of events too.
        values: List elements, or rows.
        raw_bytes: In Arrow memory; ``raw_known`` is false where strings hide their sizes.
        encoded_bytes: After encoding, before compression.
        stored_bytes: On disk.
        ratio: raw / stored.
        share: Of the dataset's stored bytes.
        encodings: Encoding of the pages looked at -> pages; of the footers where no pages were looked at.
        page_bytes, largest_page_bytes: Mean and largest data page before compression, of the pages looked at.
        rows_per_run: Flat rows / runs of equal values when sorted by request.
        rows_per_request_value: Flat rows / distinct values inside requests.
        rows_per_user_value: Flat rows / distinct values inside users.
    """

    table: str
    column: str
    type: str
    grain: str | None
    sequence: bool
    rows: int
    values: int
    raw_bytes: int
    raw_known: bool
    encoded_bytes: int
    stored_bytes: int
    ratio: float | None
    share: float
    encodings: Mapping[str, int]
    codecs: Mapping[str, int]
    page_bytes: float | None = None
    largest_page_bytes: int | None = None
    rows_per_run: float | None = None
    rows_per_request_value: float | None = None
    rows_per_user_value: float | None = None


class PartReport(_Frozen):
    """One grain, event date or bucket, over all tables."""

    value: str
    files: int
    rows: int
    stored_bytes: int
    sequence_bytes: int


class DrawSize(_Frozen):
    """The draw that baselines and dedup factors come from; share 1 is everything."""

    share: float
    users: int
    requests: int
    impressions: int


class Baseline(_Frozen):
    """The same rows stored another way.

    Attributes:
        sequences, total: Bytes of the sequence columns and of all columns, for the whole log.
        columns: Bytes of each column.
        rough: Estimated from a part of the log where the interval promises nothing.
        sequence_ratio, total_ratio: How many times larger this baseline is than what is stored.
    """

    layout: str
    title: str
    sequences: Range
    total: Range
    columns: Mapping[str, float]
    rough: bool
    sequence_ratio: float | None
    total_ratio: float | None


class UserGrain(_Frozen):
    """What one sequence group would be with each event of a user stored once, and windows in the requests.

    A token is one element of each of the group's event columns. Bytes are of the group's columns and its windows.

    Attributes:
        group: The group's name; the column's where it has none.
        event_columns: Columns of the event.
        request_columns: Columns whose values depend on the request, as an age does: they stay lists.
        newest_first: New events come at the front of a list; ``None`` where it cannot be told.
        users: Users that were measured.
        requests: Requests with a list that is not empty.
        tokens: Tokens in the lists of all requests.
        events: Tokens to store when each user's list lives across all dates, lists that are no windows included.
        ratio, ratio_month, ratio_day: Tokens / tokens to store when a user's list lives for ever, begins anew with each
            month, with each day; ``None`` where event times could not be read.
        runs: Runs of consecutive events that a request's list takes, mean.
        runs_p99: The same, 99th percentile of the requests measured.
        no_windows: Share of the requests whose list is cheaper as it stands: it stays a list.
        slide: New events from one request of a user to the next, median of the requests measured.
        slide_mean: The same, mean.
        stored_split, stored_user: Stored bytes in split layout and in the user grain.
        decoded_split, decoded_user: Bytes in memory that an epoch over all dates decodes.
        moved_split, moved_user, moved_user_day: Bytes that an epoch sends to the device: a list for each request; each
            event once, which takes batches that hold all requests of their users; once a day.
        pays: Whether it would pay.
        verdict: Why, in a sentence.
    """

    group: str
    event_columns: tuple[str, ...]
    request_columns: tuple[str, ...]
    newest_first: bool | None
    users: int
    requests: Range
    tokens: Range
    events: Range
    ratio: Range
    ratio_month: Range | None
    ratio_day: Range | None
    runs: Range
    runs_p99: float
    no_windows: Range
    slide: float | None
    slide_mean: float | None
    stored_split: Range | None
    stored_user: Range | None
    decoded_split: Range
    decoded_user: Range
    moved_split: Range
    moved_user: Range
    moved_user_day: Range | None
    pays: bool
    verdict: str


class UserLists(_Frozen):
    """What one group of layout ``user`` stores in place of a list for each request. Bytes are stored ones.

    Attributes:
        group: The group's name.
        columns: Its list columns.
        newest_first: The log's lists begin with the newest event.
        events: Rows of the events' table.
        runs: Runs in the requests, of all that have any.
        event_bytes: The events' values.
        key_bytes: Their users, positions and epochs.
        run_bytes: The requests' runs.
        list_bytes: Lists that are no windows, and stay in the requests.
        stored_bytes: The four together.
        request_lists: The same columns with a list for each request, as split layout stores them; ``None`` where no
            baseline was measured.
        floor: Every event of every user once, without users and positions.
        ratio: How many times more the lists of requests would take.
        times_floor: How many times the floor is stored.
    """

    group: str
    columns: tuple[str, ...]
    newest_first: bool
    events: int
    runs: int
    event_bytes: int
    key_bytes: int
    run_bytes: int
    list_bytes: int
    stored_bytes: int
    request_lists: Range | None
    floor: Range | None
    ratio: float | None
    times_floor: float | None


class Curve(_Frozen):
    """Ratio of the sequence columns, flat shuffled over split, as one property of the draw is cut down."""

    name: str
    x: tuple[int, ...]
    ratio: tuple[float, ...]


class Report(_Frozen):
    """The compression report of one version of a dataset, or of any log.

    Attributes:
        subject: Dataset, table or path.
        dedup_factor: B / R.
        user_lists: What layout ``user`` stores, group by group; none in other layouts.
        user_grain: What it would be for the log, from a draw of its users.
        skew: ``bucket`` and ``event_date`` -> largest / mean stored bytes.
    """

    format: Literal[1] = 1
    subject: str
    version: int | None = None
    layout: str
    created: str
    dedup_factor: float | None
    stored_bytes: int
    tables: tuple[TableReport, ...]
    columns: tuple[ColumnReport, ...]
    grains: tuple[PartReport, ...]
    dates: tuple[PartReport, ...]
    buckets: tuple[PartReport, ...]
    skew: Mapping[str, float] = Field(default_factory=dict)
    sample: DrawSize | None = None
    baselines: tuple[Baseline, ...] = ()
    curves: tuple[Curve, ...] = ()
    user_lists: tuple[UserLists, ...] = ()
    user_grain: tuple[UserGrain, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sequence_bytes(self) -> int:
        """Stored bytes of the sequence columns."""
        return sum(c.stored_bytes for c in self.columns if c.sequence)

    def to_json(self) -> str:
        """The report's JSON text."""
        return self.model_dump_json(indent=2) + "\n"


def json_schema() -> str:
    """JSON Schema (2020-12) of a report, with the meaning of every field's model."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def load_report(path: str | Path) -> Report:
    """Read a report's JSON.

    Raises:
        InputError: the file cannot be read, is no report, or one of another format.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the report {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"the report {path} is not JSON") from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != 1:
        raise InputError(
            f"the report {path} has another format",
            expected="1",
            got=str(found),
            fix="Make it again with this release.",
        )
    try:
        return Report.model_validate(values)
    except ValidationError as error:
        raise InputError(f"the report {path} is not valid: {explain_validation(error, Report)}") from None
