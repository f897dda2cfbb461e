"""Definitions of feature groups, and which event dates of which buckets a change concerns."""

from __future__ import annotations

from datetime import date

import pytest

from dedup_storage.dataset.features.checks import same_source
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.errors import SchemaError, UnknownColumnError
from dedup_storage.lake.bundles import left_empty
from dedup_storage.lake.cells import Cell, shown_cells, shown_ranges
from dedup_storage.lake.facts import COLUMNS, concerns
from dedup_storage.lake.groups import (
    Coverage,
    FeatureColumn,
    FeatureGroup,
    FeatureSource,
    SourceKind,
    bundle_table,
    find_group,
    group_table,
    known_columns,
    table_name,
)
from dedup_storage.lake.outdated import read_names
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.schema import DateGrain, Grain, LogSchema


def spec(layout: Layout = Layout.SPLIT) -> DatasetSpec:
    schema = LogSchema.from_dict(
        {"user": "u", "request": ["r"], "item": "i", "event_time": "t", "labels": ["y"], "columns": {}}
    )
    source = {"u": "bigint", "r": "bigint", "t": "timestamp", "i": "bigint", "y": "int"}
    return DatasetSpec.build("d", schema, source, layout=layout, date_grain=DateGrain.DAY, buckets=4)


def group(**changes: object) -> FeatureGroup:
    values: dict[str, object] = {
        "name": "age",
        "table": "fg_age",
        "grain": Grain.REQUEST,
        "columns": (FeatureColumn(name="days", type="int"),),
        "source": FeatureSource(kind=SourceKind.EXPRESSION, expressions={"days": "1"}),
        "coverage": (Coverage(version=3, snapshots={"requests": 7}),),
    }
    return FeatureGroup.model_validate({**values, **changes})


def test_a_definition_survives_its_json() -> None:
    for each in (group(), group(lookback=None, promoted="requests", missing="null", uses=("x",))):
        assert FeatureGroup.from_json(each.to_json()) == each
    with pytest.raises(SchemaError, match="definition is not valid"):
        FeatureGroup.from_json('{"name": "x", "surprise": 1}')


def test_groups_lie_in_their_own_table_or_in_another() -> None:
    alone, bundled, promoted = group(), group(name="b", bundled="fb_x"), group(name="c", promoted="requests")
    assert [g.home for g in (alone, bundled, promoted)] == ["fg_age", "fb_x", "requests"]
    assert [g.moved for g in (alone, bundled, promoted)] == [False, True, True]
    assert FeatureGroup.from_json(bundled.to_json()) == bundled
    other = group(name="d", table="fg_d", bundled="fb_x", columns=(FeatureColumn(name="more", type="string"),))
    assert bundle_table(spec(), "fb_x", (bundled, other)).columns == ("u", "r", "event_date", "days", "more")
    assert known_columns(spec(), (alone, bundled, other), "fb_x") == {"u", "r", "event_date", "days", "more"}
    assert known_columns(spec(), (alone, bundled, other), "fg_age") is None
    assert left_empty((alone, bundled, other, promoted), ["b"]) == ()
    assert left_empty((alone, bundled, other, promoted), ["b", "d", "age"]) == ("fb_x",)


def test_tables_of_a_version_hold_the_key_the_date_and_the_columns() -> None:
    assert group_table(spec(), group()).columns == ("u", "r", "event_date", "days")
    at_impressions = group_table(spec(), group(grain=Grain.IMPRESSION))
    assert at_impressions.columns == ("u", "r", "event_date", "position", "days")
    assert at_impressions.sort_columns == ("u", "r", "position")


def test_names() -> None:
    assert table_name("age") == "fg_age"
    assert table_name("age", ["fg_age", "fg_age_2"]) == "fg_age_3"
    with pytest.raises(UnknownColumnError, match="no feature group agr; expected one of age"):
        find_group({"age": group()}, "agr", "d")


def test_cells_stretch_over_the_look_back_and_overlap_by_date_and_bucket() -> None:
    cell = Cell(date(2024, 1, 3), date(2024, 1, 4), 1)
    assert cell.stretched(2) == Cell(date(2024, 1, 3), date(2024, 1, 6), 1)
    assert cell.stretched(None).high is None
    assert not cell.overlaps(Cell(date(2024, 1, 5), None, 1))
    assert cell.stretched(2).overlaps(Cell(date(2024, 1, 5), None, 1))
    assert not cell.overlaps(Cell(date(2024, 1, 3), date(2024, 1, 3), 2))
    assert cell.overlaps(Cell(None, None, None))


def test_sources_that_compute_the_same() -> None:
    def function(text: str | None, name: str | None = None) -> FeatureSource:
        return FeatureSource(kind=SourceKind.FUNCTION, function=name, text=text)

    lookup = FeatureSource(kind=SourceKind.JOIN, table="shop.items", on={"i": "id"}, columns={"price": "price"})
    frame = FeatureSource(kind=SourceKind.FRAME)
    same = [
        (group().source, group().source),
        (lookup, lookup.model_copy()),
        (frame, frame),
        # Where a function stands in its file is no difference.
        (function("def f(x):\n    return x\n"), function("    def f(x):\n        return x\n")),
        # A lambda's text is that of the call it stands in.
        (function("features.add('a', lambda x: x)"), function("features.refresh('a', lambda x: x)")),
        (function(None, "m:f"), function(None, "m:f")),
    ]
    other = [
        (group().source, FeatureSource(kind=SourceKind.EXPRESSION, expressions={"days": "2"})),
        (lookup, lookup.model_copy(update={"table": "shop.others"})),
        (group().source, frame),
        (function("def f(x):\n    return x\n"), function("def f(x):\n    return x + 1\n")),
        (function(None, "m:f"), function(None, "m:g")),
    ]
    assert all(same_source(*pair) for pair in same)
    assert not any(same_source(*pair) for pair in other)


def test_dates_and_buckets_are_said_as_people_say_them() -> None:
    ranges = [("2026-01-07", "2026-01-08"), ("2026-02-27", "2026-03-02"), ("", "2026-01-02"), ("2026-01-02", "")]
    assert shown_ranges(ranges) == "2026-01-07, 2026-02-27 to 2026-03-01, up to 2026-01-01, from 2026-01-02 on"
    assert shown_ranges([("", "")]) == "all"
    day, later = date(2026, 1, 7), date(2026, 1, 9)
    cells = {Cell(day, day, bucket) for bucket in (0, 1, 2, 5)} | {Cell(day, later, None), Cell(None, None, 3)}
    told = "all (buckets 3), 2026-01-07 (buckets 0 to 2, 5), 2026-01-07 to 2026-01-09"
    assert shown_cells(cells) == told
    assert shown_cells(()) == ""


def test_a_summary_shows_no_half_open_date_and_nothing_that_was_not_done() -> None:
    made = FeatureSummary(dataset="d", group="g", run_id="r", job="add-features", version=2, dates=(("", ""),), rows=3)
    assert made.shown()["dates"] == "all"
    assert {"job", "up_to_date"} & {*made.shown()} == set()
    named = FeatureSummary(dataset="d", group="g", run_id="r", job="rename-features", version=3, grain="request")
    assert {"gate", "dates", "replaced", "rows", "bytes", "files"} & {*named.shown()} == set()
    same = made.model_copy(update={"up_to_date": True})
    assert same.shown() == {"dataset": "d", "group": "g", "run_id": "r", "version": 2, "up_to_date": True}
    planned = WriteSummary(dataset="d", run_id="r", version=0, dry_run=True, requests=2)
    assert {"gate", "inconstant_requests", "version"} & {*planned.shown()} == set()
    assert planned.shown()["requests"] == 2
    assert WriteSummary(dataset="d", run_id="r", version=1, gate="passed").shown()["gate"] == "passed"


def test_what_a_group_reads_is_known_of_expressions_and_lookups() -> None:
    """One name too many costs a refresh, one too few leaves wrong values: a star, or a name that is made, is any."""

    def reads(*texts: str) -> frozenset[str] | None:
        expressions = {f"c{number}": text for number, text in enumerate(texts)}
        return read_names(group(source=FeatureSource(kind=SourceKind.EXPRESSION, expressions=expressions)))

    assert {"price", "qty"} <= (reads("Price * `qty`") or set())
    assert {"context", "device", "hist"} <= (reads("context.device = 'x'", "size(hist)*2") or set())
    for product in ("2 * price", "(a + b) * c", "l[0] * c", "`a`*`b`", "'3' * c", "f(x)*y"):
        assert reads(product) is not None, product
    for unknown in ("hash(*)", "hash(a, *)", "to_json(struct( * ))", "t.*", "count(DISTINCT *)", "a /* b */ + 1", "*",
                    "(SELECT max(x) FROM lake.n.t)", "IDENTIFIER('a' || 'b')", "input_file_name()"):  # fmt: skip
        assert reads("a", unknown) is None, unknown
    lookup = FeatureSource(kind=SourceKind.JOIN, table="n.t", on={"Item": "k"}, columns={"price": "p"})
    assert read_names(group(source=lookup)) == {"item"}
    for kind in (SourceKind.FUNCTION, SourceKind.FRAME):
        assert read_names(group(source=FeatureSource(kind=kind))) is None


def test_a_change_of_other_columns_concerns_no_reader() -> None:
    assert concerns({}, frozenset({"a"}))
    assert concerns({COLUMNS: "b,A"}, frozenset({"a"}))
    assert concerns({COLUMNS: "b"}, None)
    assert not concerns({COLUMNS: "b,c"}, frozenset({"a"}))
