"""Forms of published logs without Spark: what a schema file may say, what is proposed, and the flat rows of a log."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_storage.errors import InputError, SchemaError, UnsafeNameError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_named, check_source
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.forms.flat import flat_source
from dedup_storage.sources.recognise.head import read_head
from dedup_storage.sources.recognise.order import order_notes
from dedup_storage.sources.recognise.propose import propose
from dedup_storage.sources.recognise.written import schema_text
from dedup_storage.sources.source import open_source
from dedup_storage.sources.wanted import wanted_columns
from tests.sources.forms_cases import KEYS, form_schema, form_table, standard_rows
from tests.sources.public_logs import PUBLIC_LOGS, mind, mind_rows


def test_every_form_is_understood_as_plain_python_does(tmp_path: Path) -> None:
    pq.write_table(form_table(), tmp_path / "log.parquet")
    rows = pa.concat_tables(open_source(str(tmp_path)).tables())
    made = standard_table(rows, form_schema())
    assert {name: made[name].to_pylist() for name in made.column_names} == standard_rows()
    # Rows of a slice, and none at all.
    part = standard_table(rows.slice(1, 2), form_schema())
    assert {n: part[n].to_pylist() for n in part.column_names} == {n: v[1:3] for n, v in standard_rows().items()}
    assert standard_table(rows.slice(0, 0), form_schema()).schema == made.schema


def test_a_schema_file_keeps_its_forms() -> None:
    schema = form_schema(header=["a", "b"])
    assert LogSchema.from_dict(yaml.safe_load(schema.to_yaml())) == schema
    assert LogSchema.model_validate_json(schema.model_dump_json()) == schema


@pytest.mark.parametrize(
    ("form", "more", "said"),
    [
        ({"split": " ", "typ": "int"}, {}, "forms.x.*typ is unknown"),
        ({"split": " ", "type": "integer"}, {}, "forms.x"),
        ({"split": ""}, {}, "at least one character"),
        ({}, {}, "the form says nothing"),
        ("pairs", {}, "a form is a mapping"),
        ({"json": "bigint"}, {}, "a list or an object"),
        ({"json": ["number"]}, {}, "'number' is no type"),
        ({"json": [{"a": "int"}], "into": {"b": "c"}}, {}, "the field b is not in json"),
        ({"pairs": "-", "fields": {"a": "int"}}, {}, "for one, use split"),
        ({"pairs": "-", "fields": {"item_id": "int", "b": "int"}}, {}, r"expected candidates: \{x: '\*'\}"),
        ({"pairs": "-", "fields": {"a": "int", "b": "int"}}, {"candidates": {"x": "a"}}, r"expected '\*'"),
        ({"padding": {"side": "left"}}, {}, "either a value or like"),
        ({"padding": {"like": "y", "side": "left"}}, {}, "y, which has no padding value of its own"),
        ({"order": "newest-first"}, {"candidates": {"x": "item_id"}}, "no order of time"),
        (
            {"order": "newest-first"},
            {"sequences": [{"column": "x", "group": "g"}, {"column": "y", "group": "g"}]},
            "in several orders: x newest-first, y oldest-first",
        ),
        ({"columns": ["a", "a"]}, {}, "names a column twice"),
        ({"json": [{"a": "int"}], "into": {"a": "no name"}}, {}, "'no name' cannot be used"),
    ],
)
def test_a_form_that_cannot_be_is_refused_by_name(form: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        LogSchema.from_dict({**KEYS, "forms": {"x": form}, **more})


@pytest.mark.parametrize(
    ("column", "form", "said"),
    [
        (pa.array([1]), {"split": ","}, "the column x holds no texts; expected a text; got int64"),
        (pa.array(["1"]), {"order": "newest-first"}, "the column x holds no lists; expected a list; got string"),
        (pa.array([[1]]), {"into": {"a": "b"}}, "lists of objects"),
        (pa.array([[{"a": 1}]]), {"into": {"b": "c"}}, "the field b.*one of a"),
        (pa.array([[1]]), {"padding": {"value": "0", "side": "left"}}, "no element of the lists of x.*int64"),
        (pa.array([[1]], pa.list_(pa.int8())), {"padding": {"value": 300, "side": "left"}}, "int8"),
        (
            pa.array(["1"]),
            {"pairs": "-", "fields": {"user_id": "int", "b": "int"}},
            "user_id, which the log has already",
        ),
        (pa.array([[1]]), {"columns": ["y", "z"]}, "the log has already"),
    ],
)
def test_a_form_that_does_not_fit_its_column_is_refused_before_rows_are_read(
    tmp_path: Path, column: pa.Array, form: dict[str, Any], said: str
) -> None:
    pq.write_table(pa.table({"user_id": [1], "request_id": [1], "item_id": [1], "x": column}), tmp_path / "a.parquet")
    schema = LogSchema.from_dict({**KEYS, "forms": {"x": form}})
    with pytest.raises(SchemaError, match=said):
        check_source(open_source(str(tmp_path)), schema)


def test_a_form_of_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1], "request_id": [1], "item_id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"forms names the column hist.*user_id"):
        check_source(open_source(str(tmp_path)), LogSchema.from_dict({**KEYS, "forms": {"hist": {"split": " "}}}))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.integers(0, 2), max_size=5), max_size=6),
    side=st.sampled_from(["left", "right"]),
    order=st.sampled_from(["oldest-first", "newest-first"]),
    start=st.integers(0, 3),
)
def test_padding_and_order_are_those_of_plain_lists(
    rows: list[list[int] | None], side: str, order: str, start: int
) -> None:
    schema = LogSchema.from_dict({**KEYS, "forms": {"x": {"padding": {"value": 0, "side": side}, "order": order}}})
    table, plain, inside = pa.table({"x": pa.array(rows, pa.list_(pa.int64()))}).slice(start), [], False
    for row in rows[start:]:
        kept = row
        while kept and kept[0 if side == "left" else -1] == 0:
            kept = kept[1:] if side == "left" else kept[:-1]
        inside = inside or 0 in (kept or [])
        plain.append(kept[::-1] if kept and order == "newest-first" else kept)
    if inside:
        with pytest.raises(InputError, match="holds its padding value 0 inside"):
            standard_table(table, schema)
    else:
        assert standard_table(table, schema)["x"].to_pylist() == plain


def test_lists_of_a_group_must_be_as_long_as_each_other() -> None:
    sequences = [{"column": "a", "group": "g"}, {"column": "b", "group": "g"}]
    padding = {"padding": {"value": 0, "side": "right"}}
    schema = LogSchema.from_dict({**KEYS, "forms": {"a": padding, "b": padding}, "sequences": sequences})
    rows = {"a": pa.array([[1, 2, 0], [1, 2, 0]]), "b": pa.array([[5, 6, 0], [5, 0, 0]])}
    with pytest.raises(InputError, match=r"lists of b and a.*group g.*got '\[5\]'.*like"):
        standard_table(pa.table(rows), schema)


@pytest.mark.parametrize("name", PUBLIC_LOGS)
def test_public_logs_are_recognised(tmp_path: Path, name: str) -> None:
    make, expected = PUBLIC_LOGS[name]
    head = read_head(make(tmp_path))
    found = propose(head, {})
    if "missing" in expected:
        assert found.missing == [expected["missing"]]
        return
    assert {k: v for k, v in found.values.items() if v not in ([], {})} == expected
    schema = LogSchema.from_dict(found.values)
    assert LogSchema.from_dict(yaml.safe_load(schema_text(schema, found.reasons, found.unsure))) == schema
    assert standard_table(head.table, schema).num_rows == head.table.num_rows


def test_what_is_given_wins_and_prose_is_no_list(tmp_path: Path) -> None:
    place = tmp_path / "log.csv"
    place.write_text('who,what,said,t\n1,5,"I liked it, a lot",2024-01-01\n2,6,"no, never",2024-01-02\n')
    found = propose(read_head(str(place)), {"user": "who", "item": "what"})
    assert found.values == {"user": "who", "item": "what", "request": ["t"], "event_time": "t"}
    assert "t was taken for the request" in found.unsure["request"]
    assert found.times == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.csv: user_id,request_id,item_id,x\n", "b.csv: user_id,request_id,item_id,x\n1,r,5,\n"),
        ("a.jsonl: ", 'b.jsonl: {"user_id": 1, "request_id": "r", "item_id": 5, "x": null}\n'),
    ],
)
def test_first_rows_are_those_of_the_first_file_that_has_some(tmp_path: Path, first: str, second: str) -> None:
    for name, content in (part.split(": ", 1) for part in (first, second)):
        (tmp_path / name).write_text(content)
    found = propose(read_head(str(tmp_path)), {})
    assert found.values == {"user": "user_id", "item": "item_id", "request": ["request_id"]}


def test_parts_of_a_history_become_parallel_lists(tmp_path: Path) -> None:
    some = [{"user_id": n % 3, "request_id": n, "item_id": n, "at": 1700000100 + n,
             "hist": " ".join(f"{k}:{1700000000 - 60 * k}" for k in range(n % 4)),
             "seen": [{"aid": k, "ts": 1700000000 + k} for k in range(n % 3)]} for n in range(12)]  # fmt: skip
    place = tmp_path / "log.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in some))
    head = read_head(str(place))
    found = propose(head, {})
    assert found.values["forms"] == {
        "hist": {"pairs": ":", "fields": {"hist_item": "bigint", "hist_value": "bigint"}, "order": "newest-first"},
        "seen": {"into": {"aid": "seen_aid", "ts": "seen_ts"}},
    }
    assert found.times == {"hist_value": "s", "seen_ts": "s"}
    rows = standard_table(head.table, LogSchema.from_dict(found.values))
    assert rows["hist_item"].to_pylist()[3] == [2, 1, 0]
    assert "candidates" not in found.values


def test_a_time_that_moves_inside_a_request_is_not_the_requests(tmp_path: Path) -> None:
    place = tmp_path / "log.csv"
    place.write_text("user_id,request_id,item_id,ts\n1,a,5,1700000001\n1,a,6,1700000002\n2,b,6,1700000003\n")
    found = propose(read_head(str(place)), {})
    assert found.values == {"user": "user_id", "item": "item_id", "request": ["request_id"]}
    assert "ts differs inside requests" in found.unsure["event_time"]


def test_lists_of_times_tell_the_unit_and_the_order(tmp_path: Path) -> None:
    found = propose(read_head(PUBLIC_LOGS["padded"][0](tmp_path)), {})
    assert found.times == {"hist_time": "s"}
    assert "newest first, since the times of hist_time go down" in " ".join(found.reasons["forms"])


def test_times_that_nearly_always_go_down_tell_the_order_with_a_doubt(tmp_path: Path) -> None:
    hours = list(range(40, 0, -1))
    hours[20], hours[21] = hours[21], hours[20]
    at = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours]
    log = {"user_id": ["u", "v"], "request_id": ["a", "b"], "item_id": ["i", "j"]}
    for name, times in (("down", at), ("up", at[::-1]), ("either", [*at[:20], *at[:20][::-1]])):
        pq.write_table(pa.table(log | {"seen_at": [times, times], "seen": [["x"] * 40] * 2}), tmp_path / name)
        found = propose(read_head(str(tmp_path / name)), {})
        turned = found.values.get("forms", {})
        assert turned == ({c: {"order": "newest-first"} for c in ("seen_at", "seen")} if name == "down" else {})
        assert f"taken as {'newest' if name == 'down' else 'oldest'} first" in " ".join(found.unsure.values())


def test_columns_inside_candidates_and_of_checks_are_looked_for(tmp_path: Path) -> None:
    shown = [[{"hotel": "a", "price": 1.0, "clicked": True}]] * 2
    pq.write_table(pa.table({"user_id": ["u", "v"], "request_id": ["a", "b"], "shown": shown}), tmp_path / "l.parquet")
    source = open_source(str(tmp_path))
    fits = {"user": "user_id", "request": ["request_id"], "item": "hotel", "labels": ["clicked"], "position": "rank",
            "candidates": {"shown": "*"}, "checks": {"price": {"minimum": 0}, "rank": {"minimum": 0}},
            "columns": {"price": "impression"}}  # fmt: skip
    check_named(source, LogSchema.from_dict(fits))
    wrong = {"item": "hotl", "labels": ["clickd"], "checks": {"prise": {"minimum": 0}}, "columns": {"shown": "request"}}
    for role, value in wrong.items():
        with pytest.raises(SchemaError, match=f"{role} names the column .* expected one of .*price"):
            check_named(source, LogSchema.from_dict(fits | {role: value}))


def test_lists_whose_times_run_the_other_way_than_the_schema_says_are_told(tmp_path: Path) -> None:
    at = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(40, 0, -1)]
    rows = {"user_id": ["u", "v"], "request_id": ["a", "b"], "item_id": ["i", "j"], "seen_at": [at, at[1:]]}
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    source = open_source(str(tmp_path))
    keys = {"user": "user_id", "request": ["request_id"], "item": "item_id"}
    turned = {"forms": {"seen_at": {"order": "newest-first"}}}
    timed = {"sequences": [{"column": "seen_at", "times": True}]}
    (told,) = order_notes(source, LogSchema.from_dict(keys | timed))
    assert told.startswith("The times of seen_at go down 77 times and up 0 times")
    assert "Say order: newest-first under forms" in told
    assert order_notes(source, LogSchema.from_dict(keys | timed | turned)) == []
    assert order_notes(source, LogSchema.from_dict(keys | {"sequences": [{"column": "seen_at"}]})) == []
    pq.write_table(pa.table(rows | {"seen_at": [at[::-1], at[::-1]]}), tmp_path / "log.parquet")
    (told,) = order_notes(open_source(str(tmp_path)), LogSchema.from_dict(keys | timed | turned))
    assert "Leave out order: newest-first under forms" in told


def test_a_log_without_a_header_is_read_by_the_names_given(tmp_path: Path) -> None:
    names = ["impression_id", "user_id", "time", "history", "impressions"]
    schema = LogSchema.from_dict(
        {
            "user": "user_id", "request": "impression_id", "item": "item_id", "labels": "label", "header": names,
            "event_time": {"column": "time", "unit": "M/d/yyyy h:mm:ss a"}, "candidates": {"impressions": "*"},
            "forms": {"history": {"split": " "},
                      "impressions": {"pairs": "-", "fields": {"item_id": "string", "label": "int"}}},
        }
    )  # fmt: skip
    place = mind(tmp_path)
    flat, meaning = flat_source(open_source(place, wanted=wanted_columns(schema)), schema)
    check_source(flat, meaning)
    assert not meaning.forms
    assert not meaning.candidates
    rows = pa.concat_tables(flat.tables()).to_pylist()
    assert [(r["impression_id"], r["user_id"], r["history"], r["item_id"], r["label"]) for r in rows] == [
        # An empty field of CSV is no value.
        (r["impression_id"], r["user_id"], r["history"] or None, item, label)
        for r in mind_rows()
        for item, label in r["shown"]
    ]
    parquet = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": [1]}), parquet)
    with pytest.raises(InputError, match=r"without a header, but .* is parquet"):
        open_source(str(parquet), wanted=wanted_columns(schema))
    for wrong, said in ((names[:-1], "another number of columns"), (["1", *names[1:]], "cannot be used")):
        with pytest.raises((InputError, UnsafeNameError, SchemaError), match=said):
            open_source(place, wanted=wanted_columns(LogSchema.from_dict({**schema.to_dict(), "header": wrong})))


def _documented() -> dict[str, dict[str, Any]]:
    """Public log -> the schema that the how-to gives for it."""
    text = Path("docs/public-logs.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\S+)(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    blocks = {name: re.search(r"```yaml\n(.*?)```", body, re.DOTALL) for name, body in sections}
    return {name: yaml.safe_load(block.group(1)) for name, block in blocks.items() if block is not None}


def test_the_schemas_of_the_how_to_read_the_logs_as_published(tmp_path: Path) -> None:
    names = {"MIND": "mind", "EB-NeRD": "ebnerd", "trivago,": "trivago", "KuaiRand": "kuairand", "Tenrec": "tenrec",
             "Amazon": "amazon", "MovieLens": "movielens", "RetailRocket": "retailrocket", "Yambda": "yambda",
             "H&M": "hm", "OTTO": "otto"}  # fmt: skip
    documented = _documented()
    assert set(documented) == set(names)
    for name, values in documented.items():
        folder = tmp_path / names[name]
        folder.mkdir()
        place = PUBLIC_LOGS[names[name]][0](folder)
        if name == "OTTO":
            sessions = [json.loads(line) for line in Path(place).read_text().splitlines()]
            events = [{"session": s["session"], **event} for s in sessions for event in s["events"]]
            Path(place).write_text("".join(json.dumps(event) + "\n" for event in events))
        schema = LogSchema.from_dict(values)
        source = open_source(place, wanted=wanted_columns(schema))
        check_source(source, schema)
        flat, meaning = flat_source(source, schema)
        check_source(flat, meaning)
        assert sum(table.num_rows for table in flat.tables()) > 0, name
