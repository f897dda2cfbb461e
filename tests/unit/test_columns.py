"""Descriptions by version, and what a schema says without some columns or with more of them. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from dedup_storage.errors import SchemaError
from dedup_storage.lake.delta.events import fold
from dedup_storage.lake.delta.metadata import DESCRIBED, DeltaMetadata
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.schema import DateGrain, Grain, LogSchema
from dedup_storage.sources.absent import among, chosen_names, without_absent


def schema(**changes: Any) -> LogSchema:
    values = {
        "user": "u",
        "request": "r",
        "item": "i",
        "event_time": "t",
        "labels": ["y", "z"],
        "sequences": [{"column": "hist", "group": "h"}],
        "columns": {"country": "request", "place": "impression"},
        "checks": {"y": {"allowed": [0, 1]}},
    }
    return LogSchema.from_dict({**values, **changes})


def spec(**more: str) -> DatasetSpec:
    types = {"u": "bigint", "r": "bigint", "i": "bigint", "t": "timestamp", "y": "int", "z": "int"}
    types |= {"hist": "array<bigint>", "country": "string", "place": "int"}
    described = DatasetSpec.build(
        "d", schema(), types, layout=Layout.SPLIT, date_grain=DateGrain.DAY, buckets=4
    )  # fmt: skip
    if not more:
        return described
    grown = described.schema_.with_columns_of(schema(), dict.fromkeys(more, Grain.REQUEST))
    return described.extended(grown, more)


def metadata(*claims: dict[str, str]) -> DeltaMetadata:
    """A dataset of which each claim is published; its facts may name a parent."""
    import json

    rows = []
    for number, facts in enumerate(claims, 1):
        common = {"version": number, "at_ms": 0, "label": None}
        rows.append({**common, "event": "claim", "body": json.dumps({"parent": str(number - 1), **facts})})
        rows.append({**common, "event": "published", "body": json.dumps({"snapshots": {}, "rows": {}})})
    return DeltaMetadata(spec(), {}, fold(rows))


def test_a_version_has_the_description_of_the_nearest_version_it_comes_from() -> None:
    one, two = spec(a="int"), spec(a="int", b="double")
    described = [{}, {DESCRIBED: one.to_json()}, {}, {DESCRIBED: two.to_json()}, {"parent": "1"}, {}, {"parent": "3"}]
    meta = metadata(*described)
    assert [meta.spec_of(v) for v in range(8)] == [spec(), spec(), one, one, two, spec(), spec(), one]
    assert meta.spec == one
    # It is no fact of the run.
    assert DESCRIBED not in meta.info(2).summary
    assert metadata({}, {}).spec == spec()


def test_columns_come_after_the_others_in_the_table_of_their_grain() -> None:
    grown = spec(a="int", b="double")
    assert grown.source_columns == (*spec().source_columns, "a", "b")
    assert grown.tables[0].columns == (*spec().tables[0].columns, "a", "b")
    assert grown.tables[1] == spec().tables[1]
    assert DatasetSpec.from_json(grown.to_json()) == grown


def test_what_another_schema_says_of_further_columns() -> None:
    other = schema(
        labels=["y", "z", "late"],
        sequences=[{"column": "hist", "group": "h"}, {"column": "times", "group": "h"}],
        forms={"times": {"split": ","}},
        checks={"y": {"allowed": [5]}, "age": {"minimum": 0}},
        types={"age": "int"},
    )
    grains = {"late": Grain.IMPRESSION, "times": Grain.REQUEST, "age": Grain.REQUEST}
    grown = schema().with_columns_of(other, grains)
    assert grown.labels == ("y", "z", "late")
    assert grown.sequence_columns == ("hist", "times")
    assert grown.declared_grains().items() >= grains.items()
    # Of columns that are there already it says nothing.
    assert grown.checks["y"] == schema().checks["y"]
    assert (grown.checks["age"].minimum, dict(grown.types), list(grown.forms)) == (0, {"age": "int"}, ["times"])
    uneven = schema(sequences=[{"column": "times", "group": "h", "max_length": 3, "longer": "newest"}])
    with pytest.raises(SchemaError, match="run in parallel and are cut differently"):
        schema().with_columns_of(uneven, {"times": Grain.REQUEST})


def test_columns_that_a_log_may_lack() -> None:
    assert chosen_names("a, b,,a") == ("a", "b") == chosen_names(["a", "b"])
    assert (among("all", ["x"]), among(None, ["x"]), among("x,y", ["y", "z"])) == (["x"], [], ["y"])
    there = ["u", "r", "i", "t", "y", "hist", "country"]
    less = without_absent(schema(), there, "all")
    assert (less.labels, dict(less.columns)) == (("y",), {"country": Grain.REQUEST})
    assert less.absent(there) == []
    # What was not chosen is still asked for.
    assert without_absent(schema(), there, "z").absent(there) == ["place"]
    assert without_absent(schema(), there, None) == schema()
    for column in ("u", "i", "t"):
        with pytest.raises(SchemaError, match=f"lacks the column {column}, which cannot be filled"):
            without_absent(schema(), {*there} - {column}, "all")


def test_columns_of_forms_and_candidates_that_a_log_may_lack() -> None:
    nested = schema(
        labels=["y"],
        candidates={"items": "i", "clicked": "y", "places": "place"},
        forms={"hist": {"split": ","}},
    )
    less = without_absent(nested, ["u", "r", "t", "items", "clicked", "country"], "all")
    assert (dict(less.candidates), less.sequence_columns, dict(less.forms)) == ({"items": "i", "clicked": "y"}, (), {})
    assert list(less.columns) == ["country"]
    # Fields of structs are known once rows are read.
    fields = schema(labels=["y"], candidates={"items": "*"})
    assert without_absent(fields, ["u", "r", "t", "items", "hist", "country"], "all") == fields
