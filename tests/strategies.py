"""Hypothesis strategies for training logs: every shape a log may legally have, small."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from dedup_storage.schema import Grain, LogSchema, SequenceColumn

__all__ = ["LogSample", "examples", "logs", "names", "request_keys", "scalar_values"]

REQUEST_GRAIN = ("country", "score", "premium", "profile", "visits")
IMPRESSION_GRAIN = ("price", "label", "features", "tags")
_MIDNIGHT = datetime(2024, 2, 29, tzinfo=UTC)

_INT64 = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
# Any text but lone surrogates, which no file format can hold: empty, blank, accents, emoji, quotes, NUL, SQL.
_TEXT = st.one_of(
    st.sampled_from(["", " ", "é", "e\u0301", "日本", "👩‍👧", "'; drop table x --", "a.b/c=d", "NULL", "\u0000", "\\"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
_DOUBLE = st.one_of(st.sampled_from([0.0, -0.0, float("nan"), float("inf"), 1e-320]), st.floats())


def examples(count: int, *, shrink: bool = True) -> settings:
    """So many examples, or the profile's multiple of them (its own number, divided by Hypothesis' 100).

    Without ``shrink`` a failing example is printed as it is: where one takes Spark seconds, shrinking takes minutes.
    """
    number = max(1, count * settings().max_examples // 100)
    if shrink:
        return settings(max_examples=number)
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=number, phases=phases, suppress_health_check=list(HealthCheck))


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


_PROFILE = pa.struct(
    [("age", pa.int32()), ("home", pa.struct([("city", pa.string()), ("tags", pa.list_(pa.string()))]))]
)
_HOME = st.fixed_dictionaries({"city": _maybe(_TEXT), "tags": _maybe(st.lists(_maybe(_TEXT), max_size=2))})
scalar_values: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "country": (pa.string(), _maybe(_TEXT)),
    "score": (pa.float64(), _maybe(_DOUBLE)),
    "premium": (pa.bool_(), _maybe(st.booleans())),
    "profile": (
        _PROFILE,
        _maybe(st.fixed_dictionaries({"age": _maybe(st.integers(-(2**31), 2**31 - 1)), "home": _maybe(_HOME)})),
    ),
    "visits": (
        pa.list_(pa.struct([("page", pa.string()), ("times", pa.int64())])),
        _maybe(st.lists(_maybe(st.fixed_dictionaries({"page": _maybe(_TEXT), "times": _maybe(_INT64)})), max_size=3)),
    ),
    "price": (pa.float32(), _maybe(st.floats(width=32))),
    "label": (pa.int32(), _maybe(st.integers(0, 1))),
    "features": (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        _maybe(st.fixed_dictionaries({"a": _maybe(_INT64), "b": _maybe(_TEXT)})),
    ),
    "tags": (pa.list_(pa.string()), _maybe(st.lists(_maybe(_TEXT), max_size=2))),
}
_KEY_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "bigint": (pa.int64(), _INT64),
    "int": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "string": (pa.string(), _TEXT),
}


def names() -> st.SearchStrategy[str]:
    """Valid identifiers."""
    return st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)


def request_keys(count: int = 1) -> st.SearchStrategy[list[tuple[str, ...]]]:
    """One to four distinct request keys of ``count`` string columns."""
    return st.lists(st.tuples(*[_TEXT] * count), min_size=1, max_size=4, unique=True)


@dataclass(frozen=True)
class LogSample:
    """A raw log in its flat form, and what it means.

    Attributes:
        table: Impression rows in no order.
        schema: Its meaning, as flat input.
        requests: One dict per request: request-grain columns.
        candidates: For each request its rows of impression-grain columns.
    """

    table: pa.Table
    schema: LogSchema
    requests: tuple[dict[str, Any], ...]
    candidates: tuple[tuple[dict[str, Any], ...], ...]

    def __repr__(self) -> str:
        # Arrow's own text hides the values that make a failing example.
        return f"LogSample({self.schema.to_dict()}, {self.table.to_pylist()})"

    def _fields(self, impression: bool) -> list[pa.Field]:
        own = {*self.schema.labels, self.schema.item, *IMPRESSION_GRAIN, "position"}
        return [f for f in self.table.schema if (f.name in own) is impression]

    def nested(self) -> tuple[pa.Table, LogSchema]:
        """Request rows with a list of candidate structs."""
        fields = [*self._fields(False), pa.field("candidates", pa.list_(pa.struct(self._fields(True))))]
        rows = [{**r, "candidates": list(c)} for r, c in zip(self.requests, self.candidates, strict=True)]
        return pa.Table.from_pylist(rows, pa.schema(fields)), self._with_candidates({"candidates": "*"})

    def parallel(self) -> tuple[pa.Table, LogSchema]:
        """Request rows with one list for each impression column."""
        inner = self._fields(True)
        fields = [*self._fields(False), *(pa.field(f"{f.name}_list", pa.list_(f.type)) for f in inner)]
        rows = [
            {**r, **{f"{f.name}_list": [row[f.name] for row in c] for f in inner}}
            for r, c in zip(self.requests, self.candidates, strict=True)
        ]
        return pa.Table.from_pylist(rows, pa.schema(fields)), self._with_candidates(
            {f"{f.name}_list": f.name for f in inner}
        )

    def frames(self) -> tuple[pa.Table, pa.Table, LogSchema]:
        """Request rows, and impression rows with the keys."""
        keys = self.schema.request_key
        inner = [*(self.table.schema.field(k) for k in keys), *self._fields(True)]
        rows = [
            {**{k: r[k] for k in keys}, **row} for r, c in zip(self.requests, self.candidates, strict=True) for row in c
        ]
        requests = pa.Table.from_pylist(list(self.requests), pa.schema(self._fields(False)))
        return requests, pa.Table.from_pylist(rows, pa.schema(inner)), self.schema

    def _with_candidates(self, candidates: dict[str, str]) -> LogSchema:
        return LogSchema.from_dict({**self.schema.to_dict(), "candidates": candidates})


@st.composite
def logs(draw: st.DrawFn, *, most_users: int = 4, most_requests: int = 3, most_candidates: int = 4) -> LogSample:
    """Flat logs: nulls in non-key columns, empty, missing and null-holding sequences, one-candidate requests, unicode
    and string ids, negative and large ids, composite request keys, nested structs, an item shown twice in a request.

    A row is never repeated whole inside a request unless the log has positions, since that is a duplicate.
    """
    user_type, users = _KEY_TYPES[draw(st.sampled_from(sorted(_KEY_TYPES)))]
    request_columns = draw(st.sampled_from([("request_id",), ("session", "request_no")]))
    request_types = [_KEY_TYPES[draw(st.sampled_from(sorted(_KEY_TYPES)))] for _ in request_columns]
    item_type, items = _KEY_TYPES[draw(st.sampled_from(["bigint", "string"]))]
    positioned, declared = draw(st.booleans()), draw(st.booleans())
    time_type = pa.timestamp("us", tz=draw(st.sampled_from(["UTC", None])))
    item_pool = draw(st.lists(items, min_size=1, max_size=4))

    requests: list[dict[str, Any]] = []
    candidates: list[tuple[dict[str, Any], ...]] = []
    for user in draw(st.lists(users, min_size=1, max_size=most_users, unique=True)):
        keys = st.tuples(*(values for _, values in request_types))
        for key in draw(st.lists(keys, min_size=1, max_size=most_requests, unique=True)):
            requests.append(
                {
                    "user_id": user,
                    **dict(zip(request_columns, key, strict=True)),
                    **_context(draw, aware=time_type.tz is not None),
                }
            )
            candidates.append(_candidates(draw, item_pool, positioned, most_candidates))

    fields = [
        pa.field("user_id", user_type),
        *(pa.field(c, kind) for c, (kind, _) in zip(request_columns, request_types, strict=True)),
        pa.field("event_time", time_type),
        pa.field("hist_items", pa.list_(item_type)),
        pa.field("hist_times", pa.list_(time_type)),
        pa.field("item_id", item_type),
        *([pa.field("position", pa.int32())] if positioned else []),
        *(pa.field(c, scalar_values[c][0]) for c in (*REQUEST_GRAIN, *IMPRESSION_GRAIN)),
    ]
    history_items = st.lists(_maybe(items), min_size=6, max_size=6)
    for request in requests:
        times = request["hist_times"]
        request["hist_items"] = None if times is None else draw(history_items)[: len(times)]
    rows = [{**r, **c} for r, several in zip(requests, candidates, strict=True) for c in several]
    shuffler = random.Random(draw(st.integers(0, 2**32)))
    shuffler.shuffle(rows)
    shuffler.shuffle(fields)
    grains = dict.fromkeys(REQUEST_GRAIN, Grain.REQUEST) | {
        c: Grain.IMPRESSION for c in IMPRESSION_GRAIN if c != "label"
    }
    schema = LogSchema(
        user="user_id",
        request=request_columns,
        item="item_id",
        event_time="event_time",
        position="position" if positioned else None,
        # What is left out is detected; a column that happens to be constant then becomes request-grain.
        columns=grains if declared else {},
        sequences=(
            SequenceColumn(column="hist_items", group="history"),
            SequenceColumn(column="hist_times", group="history", times=True),
        ),
        labels=("label",),
    )
    return LogSample(pa.Table.from_pylist(rows, pa.schema(fields)), schema, tuple(requests), tuple(candidates))


def _context(draw: st.DrawFn, *, aware: bool) -> dict[str, Any]:
    """Request-grain columns of one request; its history is missing, empty or not later than the request."""
    # Around a leap day's midnights, where date and month turn.
    offset = draw(st.sampled_from([-1, 0, 1, 86_399_999_999, 86_400_000_000, 40 * 86_400_000_000]))
    time = _MIDNIGHT + timedelta(microseconds=offset)
    if not aware:
        time = time.replace(tzinfo=None)
    ages = draw(_maybe(st.lists(st.integers(0, 10**12), max_size=5)))
    past = None if ages is None else [time - timedelta(microseconds=age) for age in sorted(ages, reverse=True)]
    return {"event_time": time, "hist_times": past, **{c: draw(scalar_values[c][1]) for c in REQUEST_GRAIN}}


def _candidates(draw: st.DrawFn, items: list[Any], positioned: bool, most: int) -> tuple[dict[str, Any], ...]:
    one = st.fixed_dictionaries(
        {"item_id": st.sampled_from(items), **{c: scalar_values[c][1] for c in IMPRESSION_GRAIN}}
    )
    # `repr` tells NaN, 0.0 and -0.0 apart the way bytes do, except that Spark takes both zeros for equal.
    rows = draw(
        st.lists(
            one, min_size=1, max_size=most, unique_by=None if positioned else lambda r: repr(r).replace("-0.0", "0.0")
        )
    )
    if not positioned:
        return tuple(rows)
    places = draw(st.lists(st.integers(-5, 1_000), min_size=len(rows), max_size=len(rows), unique=True))
    return tuple({**row, "position": place} for row, place in zip(rows, places, strict=True))
