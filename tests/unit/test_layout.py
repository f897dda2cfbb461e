"""DatasetSpec: which column lies in which table, names, proposals; the description survives its JSON form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.errors import SchemaError, UnknownColumnError, UnsafeNameError
from dedup_storage.layout import (
    DatasetSpec,
    EpochGrain,
    Layout,
    ProposedGroup,
    TableRole,
    claim_tag,
    parse_version_tag,
    propose_epochs,
    propose_segments,
    version_tag,
)
from dedup_storage.schema import DateGrain, Grain, LogSchema, SequenceColumn
from dedup_storage.table_properties import encoding_properties

MIB = 1024**2
DICTIONARY = "write.parquet.dict-encoding-enabled.column."
SCHEMA = LogSchema(
    user="user",
    request=("session", "req"),
    item="item",
    event_time="at",
    columns={"country": Grain.REQUEST, "price": Grain.IMPRESSION},
    sequences=(SequenceColumn(column="hist"),),
    labels=("click",),
)
SOURCE = {
    "price": "double",
    "user": "bigint",
    "session": "string",
    "req": "bigint",
    "hist": "array<bigint>",
    "country": "string",
    "at": "timestamp",
    "item": "bigint",
    "click": "int",
}


def _spec(layout: Layout = Layout.SPLIT, schema: LogSchema = SCHEMA, **change: object) -> DatasetSpec:
    source = change.pop("source", SOURCE)
    values = {"layout": layout, "date_grain": DateGrain.DAY, "buckets": 4, **change}
    return DatasetSpec.build("clicks", schema, source, **values)  # type: ignore[arg-type]


def test_split_layout_divides_by_grain() -> None:
    requests, impressions = _spec().tables
    assert requests.role is TableRole.REQUESTS
    assert requests.columns == ("user", "session", "req", "event_date", "hist", "country", "at")
    assert requests.sort_columns == ("user", "session", "req")
    assert impressions.columns == ("user", "session", "req", "event_date", "position", "price", "item", "click")
    assert impressions.sort_columns == ("user", "session", "req", "position")


def test_flat_layout_holds_every_column_once() -> None:
    (logs,) = _spec(Layout.FLAT).tables
    assert sorted(logs.columns) == sorted([*SOURCE, "event_date", "position"])
    assert logs.sort_columns == ("user", "session", "req", "position")


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("grain", list(DateGrain))
def test_every_source_column_lies_in_exactly_one_table_or_is_a_key(layout: Layout, grain: DateGrain) -> None:
    spec = _spec(layout, date_grain=grain)
    for column in SOURCE:
        holders = [t for t in spec.tables if column in t.columns]
        assert len(holders) == (len(spec.tables) if column in spec.request_key else 1)


@pytest.mark.parametrize("layout", list(Layout))
def test_json_round_trip(layout: Layout) -> None:
    spec = _spec(layout)
    assert DatasetSpec.from_json(spec.to_json()) == spec


def test_json_of_another_release_is_refused() -> None:
    values = json.loads(_spec().to_json()) | {"format_version": 2}
    with pytest.raises(SchemaError, match=r"another format version; expected 1; got 2"):
        DatasetSpec.from_json(json.dumps(values))
    with pytest.raises(SchemaError, match="not valid"):
        DatasetSpec.from_json("{}")


def test_system_columns_step_aside() -> None:
    source = {**SOURCE, "event_date": "string", "Position": "int", "_position": "int"}
    schema = SCHEMA.with_grains(
        {**SCHEMA.columns, "event_date": Grain.REQUEST, "Position": Grain.REQUEST, "_position": Grain.IMPRESSION}
    )
    spec = _spec(schema=schema, source=source)
    assert spec.event_date_column == "_event_date"
    assert spec.position_column == "__position"
    assert spec.assigns_event_date
    assert spec.assigns_position


def test_own_date_and_position_are_used() -> None:
    schema = SCHEMA.model_copy(update={"position": "rank", "columns": {**SCHEMA.columns, "event_date": Grain.REQUEST}})
    spec = _spec(schema=schema, source={**SOURCE, "event_date": "date", "rank": "int"})
    assert (spec.event_date_column, spec.assigns_event_date) == ("event_date", False)
    assert (spec.position_column, spec.assigns_position) == ("rank", False)


def test_no_date_column_without_an_event_time() -> None:
    schema = SCHEMA.model_copy(update={"event_time": None, "columns": {**SCHEMA.columns, "at": Grain.REQUEST}})
    spec = _spec(schema=schema, date_grain=DateGrain.NONE)
    assert spec.event_date_column is None
    assert all("event_date" not in t.columns for t in spec.tables)


@pytest.mark.parametrize("grain", list(DateGrain))
def test_date_column_at_every_date_grain(grain: DateGrain) -> None:
    spec = _spec(date_grain=grain)
    assert all("event_date" in t.columns for t in spec.tables)


def test_column_without_grain_is_named() -> None:
    with pytest.raises(SchemaError, match="the grain of the column extra is not known"):
        _spec(source={**SOURCE, "extra": "int"})


@pytest.mark.parametrize("name", ["x; drop table y", "a.b", ""])
def test_hostile_dataset_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        DatasetSpec.build(name, SCHEMA, SOURCE, layout=Layout.SPLIT, date_grain=DateGrain.DAY, buckets=4)


def test_unknown_role_is_named() -> None:
    with pytest.raises(UnknownColumnError, match="has no table logs"):
        _spec().table(TableRole.LOGS)


def test_tables_with_sequences_take_large_pages() -> None:
    spec = _spec()
    with_lists = encoding_properties(spec, spec.table(TableRole.REQUESTS))
    without = encoding_properties(spec, spec.table(TableRole.IMPRESSIONS))
    assert with_lists["write.parquet.dict-encoding-enabled.column.hist.element"] == "false"
    assert int(with_lists["write.parquet.page-size-bytes"]) == 8 * MIB
    assert "write.parquet.page-size-bytes" not in without


GROUPS = (ProposedGroup("views", ("hist",), False, ("hist",)),)


def test_what_goes_up_has_no_dictionary() -> None:
    spec = _spec(Layout.USER, groups=GROUPS)
    switches = {
        table.name: {
            key.removeprefix(DICTIONARY): value
            for key, value in encoding_properties(spec, table, (), dictionaries).items()
            if key.startswith(DICTIONARY)
        }
        for table, dictionaries in ((spec.anchor, ()), (spec.table(TableRole.EVENTS), ("hist",)))
    }
    runs = {"views_runs.element.start": "false", "views_runs.element.length": "false"}
    assert switches["requests"] == {"hist.element": "false", **runs}
    # Of the event's own column nothing is said: writers try a dictionary unasked.
    assert switches["events_views"] == {"position": "false"}
    plain = encoding_properties(spec, spec.table(TableRole.EVENTS))
    assert plain[DICTIONARY + "hist"] == "false"
    assert DICTIONARY + "user_id" not in plain


@pytest.mark.parametrize("grain", list(EpochGrain))
def test_events_lie_by_epochs_where_the_dataset_has_them(grain: EpochGrain) -> None:
    spec = _spec(Layout.USER, groups=GROUPS, epoch_grain=grain)
    parted = spec.partitioned("events_views")
    by_month = grain is EpochGrain.MONTH
    assert (parted.date_grain, parted.event_date_column) == (
        (DateGrain.DAY, "epoch") if by_month else (DateGrain.NONE, None)
    )
    # Datasets of before say nothing of epochs: they have months.
    assert ("epoch_grain" in json.loads(spec.to_json())) is not by_month
    assert DatasetSpec.from_json(spec.to_json()) == spec
    assert spec.partitioned("requests") == spec
    assert _spec(Layout.SPLIT, epoch_grain=grain).epoch_grain is EpochGrain.MONTH


@pytest.mark.parametrize(
    ("size", "days", "grain", "expected"),
    [
        (64 * MIB, 30, DateGrain.DAY, EpochGrain.MONTH),
        (64 * MIB - 1, 30, DateGrain.DAY, EpochGrain.NONE),
        # A first log of one day stands for the month to come.
        (3 * MIB, 1, DateGrain.DAY, EpochGrain.MONTH),
        (2 * MIB, 1, DateGrain.MONTH, EpochGrain.NONE),
        (10**12, 30, DateGrain.NONE, EpochGrain.NONE),
        (10**12, 0, DateGrain.DAY, EpochGrain.NONE),
    ],
)
def test_proposed_epochs(size: int, days: int, grain: DateGrain, expected: EpochGrain) -> None:
    assert propose_epochs(size, days, grain) is expected


@given(st.integers(1, 10**9))
def test_version_tags_round_trip(version: int) -> None:
    assert parse_version_tag(version_tag(version)) == version
    assert parse_version_tag(claim_tag(version)) is None


@pytest.mark.parametrize("tag", ["v0", "v01", "v", "V1", "v1 ", "main", "v1x", "pin-v1-a"])
def test_other_tags_are_no_versions(tag: str) -> None:
    assert parse_version_tag(tag) is None


@pytest.mark.parametrize(
    ("size", "days", "months", "expected"),
    [
        (10 * MIB, 365, 12, (DateGrain.NONE, 4)),  # a year of a small shop: no heap of tiny files
        (1024 * MIB, 365, 12, (DateGrain.MONTH, 4)),
        (365 * 64 * MIB, 365, 12, (DateGrain.DAY, 4)),
        (10 * 4096 * MIB, 10, 1, (DateGrain.DAY, 16)),
        (4096 * MIB, 0, 0, (DateGrain.NONE, 16)),
    ],
)
def test_proposals(size: int, days: int, months: int, expected: tuple[DateGrain, int]) -> None:
    assert propose_segments(size, days, months) == expected


@given(st.integers(0, 2**50), st.integers(0, 2000), st.integers(0, 70))
def test_proposed_segments_are_never_crumbs(size: int, days: int, months: int) -> None:
    grain, buckets = propose_segments(size, days, months)
    periods = {DateGrain.DAY: days, DateGrain.MONTH: months, DateGrain.NONE: 1}[grain]
    assert buckets >= 4
    assert buckets & (buckets - 1) == 0
    if buckets > 4 or grain is not DateGrain.NONE:
        assert size / periods / buckets >= 16 * MIB
