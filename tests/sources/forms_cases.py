"""Columns of published logs in each form, with what they say as plain Python values, and columns that say nothing."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from dedup_storage.schema import LogSchema

__all__ = ["FORMS", "REFUSED", "form_schema", "form_table", "standard_rows"]

KEYS = {"user": "user_id", "request": ["request_id"], "item": "item_id"}
NAN = float("nan")

# Column -> (values, type, form, standard column -> values).
FORMS: dict[str, tuple[list[Any], pa.DataType, dict[str, Any], dict[str, list[Any]]]] = {
    "words": (["N1 N22", None, " N3\n N4 ", ""], pa.string(), {"split": " "},
              {"words": [["N1", "N22"], None, ["N3", "N4"], []]}),
    "numbers": (["[1, -2]", "[]", "[9223372036854775807]", None], pa.string(),
                {"split": ",", "brackets": "[]", "type": "bigint"},
                {"numbers": [[1, -2], [], [9223372036854775807], None]}),
    "quoted": (["['a', 'b c']", "['']", "[]", "['é|x']"], pa.string(), {"split": ",", "brackets": "[]", "quote": "'"},
               {"quoted": [["a", "b c"], [""], [], ["é|x"]]}),
    "barred": (["1.5|2.|-3e2", "", "7", None], pa.string(), {"split": "|", "type": "double"},
               {"barred": [[1.5, 2.0, -300.0], [], [7.0], None]}),
    "gaps": (["1::NA::3", "NA", "2147483647", ""], pa.string(), {"split": "::", "type": "int", "missing": "NA"},
             {"gaps": [[1, None, 3], [None], [2147483647], []]}),
    "truths": (["true,False", None, "", "True"], pa.string(), {"split": ",", "type": "boolean"},
               {"truths": [[True, False], None, [], [True]]}),
    "visits": (["1:0.5;2:1", "", None, "3:2e1"], pa.string(),
               {"split": ";", "pairs": ":", "fields": {"visit_id": "bigint", "visit_share": "double"},
                "order": "newest-first"},
               {"visit_id": [[2, 1], [], None, [3]], "visit_share": [[1.0, 0.5], [], None, [20.0]]}),
    "uuids": (["a-b-1 c-0", "", None, "d--1"], pa.string(),
              {"pairs": "-", "fields": {"uuid": "string", "uuid_flag": "int"}, "at": "last"},
              {"uuid": [["a-b", "c"], [], None, ["d-"]], "uuid_flag": [[1, 0], [], None, [1]]}),
    "objects": (['[{"a": 1, "b": "x", "more": {"c": []}}, {"a": null}]', "[]", None, 'null'], pa.string(),
                {"json": [{"a": "bigint", "b": "string"}], "into": {"a": "object_a", "b": "object_b"}},
                {"object_a": [[1, None], [], None, None], "object_b": [["x", None], [], None, None]}),
    "kept": (['[{"a": [1], "b": "],\\"c\\":"}]', '[]', '[{"x": [2] , "a": [3]}]', None], pa.string(),
             {"json": [{"a": ["int"], "b": "string"}], "into": {"a": "kept_a", "b": "kept_b"}},
             {"kept_a": [[[1]], [], [[3]], None], "kept_b": [["],\"c\":"], [], [None], None]}),
    "nested": (["[[1], [2, null]]", " [] ", "[[]]", None], pa.string(), {"json": [["int"]]},
               {"nested": [[[1], [2, None]], [], [[]], None]}),
    "thing": (['{"n": 1e2, "yes": true}', None, "{}", '{"n": 3, "x": 1}'], pa.string(),
              {"json": {"n": "double", "yes": "boolean"}, "into": {"n": "thing_n", "yes": "thing_yes"}},
              {"thing_n": [100.0, None, None, 3.0], "thing_yes": [True, None, None, None]}),
    "left": ([[0, 0, 5], [0, 0, 0], [1, 2, 3], None], pa.list_(pa.int64()), {"padding": {"value": 0, "side": "left"}},
             {"left": [[5], [], [1, 2, 3], None]}),
    "right": ([[7, 5, -1], [-1, -1, -1], [3, 2, 1], [4, -1, -1]], pa.list_(pa.int32(), 3),
              {"padding": {"value": -1, "side": "right"}, "order": "newest-first", "size": 3},
              {"right": [[5, 7], [], [1, 2, 3], [4]]}),
    "rates": ([[0, 9, 0], [0, 0, 0], [1, 0, 2], [0, 0, 0]], pa.list_(pa.int32()),
              {"padding": {"like": "right", "side": "right"}, "order": "newest-first"},
              {"rates": [[9, 0], [], [2, 0, 1], [0]]}),
    "nulls": ([["x", None], [None], [], ["y"]], pa.list_(pa.string()), {"padding": {"value": None, "side": "right"}},
              {"nulls": [["x"], [], [], ["y"]]}),
    "nans": ([[NAN, 1.5], [NAN], [], [2.5]], pa.list_(pa.float64()), {"padding": {"value": NAN, "side": "left"}},
             {"nans": [[1.5], [], [], [2.5]]}),
    "events": ([[{"aid": 1, "at": dt.datetime(2024, 1, 2)}], [], None, [None]],
               pa.list_(pa.struct([("aid", pa.int32()), ("at", pa.timestamp("us"))])),
               {"into": {"aid": "event_aid", "at": "event_at"}},
               {"event_aid": [[1], [], None, [None]], "event_at": [[dt.datetime(2024, 1, 2)], [], None, [None]]}),
    "latest": ([None] * 4, pa.string(), {"columns": ["h_1", "h_2", "h_3"], "padding": {"value": 0, "side": "right"},
               "order": "newest-first"}, {"latest": [[1], [2, 3], [], [4, 5, 6]]}),
    "shown": ([[4, 5, 6], [4], None, [5]], pa.list_(pa.int64()), {"order": "oldest-first", "padding":
              {"value": -1, "side": "right"}}, {"shown": [[4, 5, 6], [4], None, [5]]}),
}  # fmt: skip
# Plain columns beside them, and the column that is made of two.
_PLAIN = {
    "clicked": pa.array([[6, 4], [], [9], None], pa.list_(pa.int64())),
    "h_1": pa.array([1, 3, 0, 6]), "h_2": pa.array([0, 2, 0, 5]), "h_3": pa.array([0, 0, 0, 4]),
}  # fmt: skip
_CHOSEN = {"flags": {"chosen": "clicked", "among": "shown"}}
_FLAGS = [[1, 0, 1], [0], None, [0]]

# What is refused: (values, type, form, what the message says).
_TEXT, _INTS = pa.string(), pa.list_(pa.int64())
_PAIR = {"pairs": "-", "fields": {"item_id": "string", "label": "int"}}
REFUSED: dict[str, tuple[Any, pa.DataType, dict[str, Any], str]] = {
    "item": ("1 x", _TEXT, {"split": " ", "type": "bigint"}, "x holds an item that is no bigint.*got '1 x'"),
    "zeros": ("1,007", _TEXT, {"split": ",", "type": "int"}, "no int.*plain form"),
    "wide": ("9223372036854775808", _TEXT, {"split": ",", "type": "bigint"}, "no bigint"),
    "infinite": ("1e999", _TEXT, {"split": ",", "type": "double"}, "no double.*finite"),
    "empty": ("a,,b", _TEXT, {"split": ","}, "texts that are not empty.*missing"),
    "bare": ("[a]", _TEXT, {"split": ",", "brackets": "[]", "quote": "'"}, "without quotes"),
    "torn": ("['a, b']", _TEXT, {"split": ",", "brackets": "[]", "quote": "'"}, "without quotes"),
    "brackets": ("1,2]", _TEXT, {"split": ",", "brackets": "[]"}, "has no brackets"),
    "label": ("N1-0 N2", _TEXT, _PAIR, "no item_id-label.*2 parts.*got 'N1-0 N2'"),
    "parts": ("N1-2-0", _TEXT, _PAIR, "2 parts.*at: last"),
    "flag": ("N1-x", _TEXT, _PAIR, "whose label is no int"),
    "json": ("[1", _TEXT, {"json": ["bigint"]}, "no JSON of its type; expected .bigint."),
    "python": ("['a']", _TEXT, {"json": ["string"]}, "Python's own form"),
    "behind": ("[1] [2]", _TEXT, {"json": ["bigint"]}, "no JSON"),
    "text": ('["5"]', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "number": ("[5]", _TEXT, {"json": ["string"]}, "no JSON"),
    "fraction": ("[1.0]", _TEXT, {"json": ["bigint"]}, "no JSON"),
    "object": ('{"a": 1}', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "twice": ('{"a": 1, "a": 2}', _TEXT, {"json": {"a": "bigint"}}, "no JSON"),
    # Texts that end their value and go on in what the parser was given around it.
    "another_key": ('[1],"x":[2]', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "another_end": ('[1]],"x":[[2]', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "behind_object": ('{"a": 1} , "x": {"a": 2}', _TEXT, {"json": {"a": "bigint"}}, "no JSON"),
    "behind_null": ('null,"x":1', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "two_rows": ('[1]}\n{"value":[2]', _TEXT, {"json": ["bigint"]}, "no JSON"),
    "two_values": ("[1],[2]", _TEXT, {"json": ["bigint"]}, "no JSON"),
    "no_text": ("", _TEXT, {"json": ["bigint"]}, "no JSON"),
    "inside": ([0, 5, 0, 7], _INTS, {"padding": {"value": 0, "side": "left"}}, r"inside.*got '\[0,5,0,7\]'"),
    "side": ([5, 7, 0], _INTS, {"padding": {"value": 0, "side": "left"}}, "its side or value"),
    "size": ([1, 2], _INTS, {"size": 3}, "3 elements before padding"),
    "absent": ([7], _INTS, {}, "clicked among shown"),
}


def form_schema(**more: Any) -> LogSchema:
    """The meaning of all forms together."""
    forms = {name: form for name, (_, _, form, _) in FORMS.items()}
    return LogSchema.from_dict({**KEYS, "forms": {**forms, **_CHOSEN}, **more})


def form_table() -> pa.Table:
    """Four rows with a column in each form."""
    keys = {"user_id": pa.array([1, 1, 2, 2]), "request_id": pa.array([1, 2, 3, 4]), "item_id": pa.array([5, 6, 7, 8])}
    made = {name: pa.array(values, kind) for name, (values, kind, form, _) in FORMS.items() if "columns" not in form}
    return pa.table({**keys, **made, **_PLAIN})


def standard_rows() -> dict[str, list[Any]]:
    """Standard column -> values, as they are to be understood."""
    found = {"user_id": [1, 1, 2, 2], "request_id": [1, 2, 3, 4], "item_id": [5, 6, 7, 8]}
    for _, _, _, made in FORMS.values():
        found.update(made)
    return {**found, "clicked": _PLAIN["clicked"].to_pylist(), "flags": _FLAGS}


def refused(name: str) -> tuple[pa.Table, LogSchema, str]:
    """A log of two rows, the second of which is refused."""
    value, kind, form, said = REFUSED[name]
    if name == "absent":
        table = pa.table({"clicked": pa.array([None, value], kind), "shown": pa.array([[1], [1, 2]], kind)})
        return table, LogSchema.from_dict({**KEYS, "forms": _CHOSEN}), said
    table = pa.table({"x": pa.array([None, value], kind)})
    nested = {"candidates": {"x": "*"}} if "pairs" in form else {}
    return table, LogSchema.from_dict({**KEYS, "forms": {"x": form}, **nested}), said
