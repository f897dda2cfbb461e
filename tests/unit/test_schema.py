"""LogSchema: round trip through YAML, roles, and errors that name the column."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.demo.complete_journey import log_schema
from dedup_storage.errors import SchemaError, UnsafeNameError
from dedup_storage.schema import ColumnCheck, Grain, LogSchema, SequenceColumn, check_name
from dedup_storage.synth.params import SynthParams

SCHEMAS = Path(__file__).resolve().parents[2] / "conf" / "schemas"
BASE = {"user": "u", "request": ["r"], "item": "i"}
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)


@st.composite
def schemas(draw: st.DrawFn) -> LogSchema:
    """Valid schemas whose columns all have different names."""
    pool = draw(st.lists(names, min_size=12, max_size=12, unique=True))
    take = iter(pool)
    requests = tuple(next(take) for _ in range(draw(st.integers(1, 3))))
    values = {
        "user": next(take),
        "request": requests,
        "item": next(take),
        "event_time": draw(st.sampled_from([None, next(take)])),
        "position": draw(st.sampled_from([None, next(take)])),
        "labels": tuple(next(take) for _ in range(draw(st.integers(0, 1)))),
        "columns": {
            next(take): draw(st.sampled_from((Grain.REQUEST, Grain.IMPRESSION))) for _ in range(draw(st.integers(0, 2)))
        },
        "sequences": tuple(
            SequenceColumn(column=next(take), times=draw(st.booleans()), max_length=draw(st.sampled_from([None, 7])))
            for _ in range(draw(st.integers(0, 1)))
        ),
        "buckets": draw(st.sampled_from([None, 1, 64])),
    }
    return LogSchema(**values)


@given(schemas())
def test_yaml_round_trip(schema: LogSchema) -> None:
    assert LogSchema.from_dict(yaml.safe_load(schema.to_yaml())) == schema


@given(schemas())
def test_roles_decide_grains(schema: LogSchema) -> None:
    grains = schema.declared_grains()
    for column in (*schema.request_key, *schema.sequence_columns, *([schema.event_time] if schema.event_time else [])):
        assert grains[column] is Grain.REQUEST
    for column in (schema.item, *schema.labels, *([schema.position] if schema.position else [])):
        assert grains[column] is Grain.IMPRESSION
    for column, grain in schema.columns.items():
        assert grains[column] is grain


@given(schemas())
def test_with_grains_keeps_what_was_declared(schema: LogSchema) -> None:
    assert schema.with_grains(schema.declared_grains()).declared_grains() == schema.declared_grains()


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_schemas_are_valid(path: Path) -> None:
    assert LogSchema.from_yaml(path).request


def test_shipped_schema_of_the_demo_is_the_one_it_uses() -> None:
    assert LogSchema.from_yaml(SCHEMAS / "complete_journey.yaml") == log_schema()


def test_shipped_schema_of_synthetic_logs_names_their_columns() -> None:
    shipped = LogSchema.from_yaml(SCHEMAS / "synthetic.yaml")
    made = SynthParams.preset("small").log_schema()
    assert shipped.declared_grains() == made.declared_grains()
    assert [s.column for s in shipped.sequences] == [s.column for s in made.sequences]


def test_one_request_column_may_stand_without_brackets() -> None:
    assert LogSchema.from_dict({**BASE, "request": "r", "labels": "click"}).request_key == ("u", "r")


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"usr": "x"}, "the key usr is unknown (known keys: one of user"),
        ({"user": None}, "user: Input should be a valid string"),
        ({"request": []}, "at least one column must identify a request"),
        ({"item": "u"}, "the key column u has two roles"),
        ({"columns": {"i": "request"}}, "columns.i: request grain, but its role makes it impression grain"),
        ({"columns": {"x": "requst"}}, "columns.x"),
        ({"date_grain": "day"}, "date_grain day needs event_time"),
        ({"sequences": [{"column": "h"}, {"column": "h"}]}, "a column is named twice"),
        ({"sequences": [{"column": "h", "max_length": 0}]}, "sequences.0.max_length"),
        ({"sequences": [{"column": "h", "lenght": 3}]}, "the key sequences.0.lenght is unknown"),
        ({"buckets": 0}, "buckets"),
        # YAML's truth values, with which Python counts as with 1 and 0; and what no number can be held against.
        ({"buckets": True}, "buckets: true is a truth value and no number"),
        ({"sequences": [{"column": "h", "max_length": True}]}, "max_length: true is a truth value"),
        ({"sequences": [{"column": "h", "times": 1}]}, "sequences.0.times: Input should be a valid boolean"),
        ({"forms": {"h": {"size": True}}}, "size: true is a truth value"),
        ({"checks": {"x": {"minimum": True}}}, "checks.x.minimum: true is a truth value and no number"),
        ({"checks": {"x": {"maximum": False}}}, "checks.x.maximum: false is a truth value and no number"),
        ({"checks": {"x": {"maximum": float("nan")}}}, "checks.x.maximum: NaN is no number"),
        ({"checks": {"x": {"not_null": 1}}}, "checks.x.not_null: Input should be a valid boolean"),
    ],
)
def test_wrong_schemas_are_refused_by_name(change: dict[str, object], needle: str) -> None:
    with pytest.raises(SchemaError) as caught:
        LogSchema.from_dict({**BASE, **change})
    assert needle in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("missing", ["user", "request", "item"])
def test_missing_keys_are_named(missing: str) -> None:
    with pytest.raises(SchemaError, match=f"the key {missing} is missing"):
        LogSchema.from_dict({k: v for k, v in BASE.items() if k != missing})


@pytest.mark.parametrize(
    "name", ["x; drop table y", "a b", "1a", "", "a" * 129, "a.b", "a`b", "ü", "a\n", "../a", 'a"b', None, 3]
)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        check_name(name)


@given(names)
def test_plain_names_are_kept(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("place", ["user", "item", "event_time", "position"])
def test_hostile_names_are_refused_in_every_role(place: str) -> None:
    with pytest.raises((SchemaError, UnsafeNameError), match="cannot be used"):
        LogSchema.from_dict({**BASE, place: "x; drop table y"})


def test_missing_column_names_the_nearest() -> None:
    schema = LogSchema.from_dict({**BASE, "columns": {"country": "request"}})
    with pytest.raises(SchemaError, match="the column country is not in the log; expected one of contry, u, r, i"):
        schema.require_columns(["u", "r", "i", "contry"])


def test_nested_input_needs_the_list_and_not_the_item() -> None:
    schema = LogSchema.from_dict({**BASE, "candidates": {"shown": "i"}, "labels": ["y"]})
    schema.require_columns(["u", "r", "shown"])
    with pytest.raises(SchemaError, match="the column shown is not in"):
        schema.require_columns(["u", "r", "i", "y"])


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("- a\n", "is not a mapping"),
        ("user: [a\n", "is not YAML"),
        ("user: !!python/object:os.system x\n", "is not YAML"),
        ("user: u\ncolumns: {a: request}\ncolumns: {b: request}\n", "line 3: the key columns stands twice"),
        ("user: \udcfc\n", "is not written in UTF-8"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, needle: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SchemaError, match=needle):
        LogSchema.from_yaml(path)


def test_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"none\.yaml cannot be read: No such file"):
        LogSchema.from_yaml(tmp_path / "none.yaml")


def test_unknown_key_of_a_check_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"checks\.i\.minimun is unknown"):
        LogSchema.from_dict({**BASE, "checks": {"i": {"minimun": 1}}})
    assert ColumnCheck(minimum=0).minimum == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("labels: [u]", "the column u has two roles: user and labels"),
        ("labels: [t]\nevent_time: t", "the column t has two roles: event_time and labels"),
        ("event_time: i", "the column i has two roles: event_time and item"),
        ("labels: [h]\nsequences: [{column: h}]", "the column h has two roles: sequences and labels"),
        ("candidates: {u: i}", "the column u has two roles: user and candidates"),
        ("candidates: {a: i, b: i}", "candidates: the column i is named twice"),
        ("columns: {on: request}", "a name under columns is no text; put it in quotes"),
        ("types: {5: string}", "a name under types is no text; put it in quotes"),
        ("yes: x", "a name is no text; put it in quotes"),
    ],
)
def test_a_column_has_one_role_and_a_name_that_is_a_text(tmp_path: Path, text: str, told: str) -> None:
    """A label that was the user, too, made the key a column of impressions."""
    place = tmp_path / "schema.yaml"
    place.write_text(f"user: u\nrequest: [r]\nitem: i\n{text}\n")
    with pytest.raises(SchemaError, match=told):
        LogSchema.from_yaml(place)


def test_the_time_of_an_event_may_be_its_request() -> None:
    described = LogSchema.from_dict({"user": "u", "request": ["t"], "item": "i", "event_time": "t"})
    assert described.fixed_grains()["t"] is Grain.REQUEST
