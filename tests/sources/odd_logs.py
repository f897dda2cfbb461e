"""Odd logs: files of every kind that ``write`` takes, in odd types, orders, dialects and names, and what they say."""

from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from dedup_storage.errors import DedupStorageError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_source
from dedup_storage.sources.source import open_source
from dedup_storage.sources.wanted import wanted_columns
from tests.sources.odd_values import Column, columns, same, told

__all__ = ["SCHEMA", "OddLog", "Rows", "by_arrow", "odd_logs", "plain_parquet", "rows_or_refusal"]

SCHEMA = LogSchema.from_dict({"user": "user_id", "request": ["request_id"], "item": "item_id"})
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class OddLog:
    """A log.

    Attributes:
        kind: What its files are.
        files: Place below the log's folder -> content; the rows of each stand in the same place of ``parts``.
        parts: What a plain reading of each file gives.
        drawn: What was drawn, for the eyes of who looks at a failure.
    """

    kind: str
    files: Mapping[str, bytes]
    parts: tuple[Rows, ...]
    drawn: str

    def __repr__(self) -> str:
        return f"OddLog({self.kind}, {list(self.files)}, {self.drawn})"

    def lay(self, folder: Path) -> str:
        """Write the files; gives the log's place."""
        for name, content in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return str(folder)

    def _names(self) -> set[str]:
        # Of a log without rows the keys are known all the same.
        columns = {c for part in self.parts for row in part for c in row} | {"user_id", "request_id", "item_id"}
        return columns | {n.rpartition("/")[2] for n in self.files}

    def is_refused_by(self, said: str) -> bool:
        """Whether a refusal names a column or a file, or that a log without rows has none."""
        return (not any(self.parts) and "holds no rows" in said) or any(name in said for name in self._names())

    def is_told_by(self, rows: Rows) -> bool:
        """Whether rows are those that the files hold."""
        ours, theirs = _sorted([r for part in self.parts for r in part]), _sorted([told(r) for r in rows])
        return len(ours) == len(theirs) and all(map(self._same, ours, theirs))

    def _same(self, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
        if self.kind != "csv":
            return same(ours, theirs)
        return all(_is_text_of(ours.get(c), theirs.get(c)) for c in {*ours, *theirs})


def rows_or_refusal(rows: Callable[[], Rows]) -> tuple[Rows | None, str]:
    """What something reads, or how it refuses."""
    try:
        return rows(), ""
    except DedupStorageError as error:
        return None, str(error)


def by_arrow(place: str) -> Rows:
    """What ``validate`` and ``estimate`` read."""
    source = open_source(place, wanted=wanted_columns(SCHEMA))
    check_source(source, SCHEMA)
    return [row for table in source.tables() for row in table.to_pylist()]


def _sorted(rows: Rows) -> Rows:
    return sorted(rows, key=lambda r: (str(r["request_id"]), str(r["item_id"])))


def _is_text_of(text: str | None, value: Any) -> bool:
    """Whether a value is what a field of CSV says; an empty field without quotes is none."""
    if not text:
        return value in (None, "")
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, float):
        return float(text) == value and math.isfinite(value)
    return text == str(value)


# -- what the rows are --------------------------------------------------------------------------------------------

_START = dt.datetime(2024, 6, 1)
_TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
# Keys: types of the same values, and the value of each number.
_KEYS: list[tuple[list[pa.DataType], Callable[[int], Any]]] = [
    ([pa.int8(), pa.int32(), pa.int64()], lambda n: n),
    ([pa.uint8(), pa.uint32(), pa.uint64()], lambda n: n),
    ([pa.int64()], lambda n: 2**53 + n),
    (_TEXTS, lambda n: f"{n:03d}"),
    (_TEXTS, lambda n: " é"[: n % 3] + str(n)),
]
_OTHER_KEYS: list[tuple[list[pa.DataType], Callable[[int], Any]]] = [
    ([pa.float64()], float),
    ([pa.bool_()], bool),
    ([pa.timestamp("us"), pa.timestamp("s", "UTC")], lambda n: _START + dt.timedelta(hours=n)),
    ([pa.date32()], lambda n: (_START + dt.timedelta(days=n)).date()),
    ([pa.decimal128(12, 2)], lambda n: Decimal(n).scaleb(-2)),
    ([pa.binary()], lambda n: bytes([n])),
    ([pa.uint64()], lambda n: 2**63 + n),
]


@st.composite
def _requests(draw: st.DrawFn) -> list[list[tuple[int, int, int]]]:
    """For each request its candidates: numbers of the user, the request and the item."""
    users = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    return [
        [(user, number, item) for item in draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))]
        for number, user in enumerate(users)
    ]


@st.composite
def _divided(draw: st.DrawFn, requests: list[Any]) -> list[list[Any]]:
    """The requests in one to three files, each of which has some; seldom one more that has none."""
    count = draw(st.integers(1, min(3, len(requests))))
    places = [*range(count), *(draw(st.integers(0, count - 1)) for _ in requests[count:])]
    found = [[r for r, at in zip(requests, places, strict=True) if at == file] for file in range(count)]
    return found if draw(st.integers(0, 9)) else [*found, []]


_STEMS = ["part-0", "a b", "c[1]", "d#e", "f:g", "é", "h%20i", "j{k}", "l=m", "n?o*", "p\\q"]


@st.composite
def _names(draw: st.DrawFn, count: int, suffixes: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of files, below folders that may tell a column, and the columns of each."""
    stems = draw(st.lists(st.sampled_from(_STEMS), min_size=count, max_size=count, unique=True))
    names = [stem + draw(st.sampled_from(suffixes)) for stem in stems]
    if draw(st.integers(0, 4)):
        return names, [{} for _ in names]
    values = [draw(st.sampled_from(["007", "7", "a%2Fb", "x y", "__HIVE_DEFAULT_PARTITION__"])) for _ in names]
    meant = {"a%2Fb": "a/b", "__HIVE_DEFAULT_PARTITION__": None}
    return (
        [f"store={value}/{name}" for value, name in zip(values, names, strict=True)],
        [{"store": meant.get(value, value)} for value in values],
    )


# -- Parquet ------------------------------------------------------------------------------------------------------

_WRITERS = st.fixed_dictionaries(
    {},
    optional={
        "compression": st.sampled_from(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
        "version": st.sampled_from(["1.0", "2.4", "2.6"]),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "use_dictionary": st.booleans(),
        "row_group_size": st.integers(1, 3),
        "store_schema": st.booleans(),
        "use_deprecated_int96_timestamps": st.booleans(),
        "use_compliant_nested_type": st.booleans(),
        "write_statistics": st.booleans(),
        "use_byte_stream_split": st.booleans(),
    },
)


@st.composite
def _parquet_logs(draw: st.DrawFn) -> OddLog:
    requests = draw(_requests())
    keys = {
        role: draw(st.sampled_from(_KEYS if draw(st.integers(0, 9)) else _OTHER_KEYS))
        for role in ("user_id", "request_id", "item_id")
    }
    odd: dict[str, Column] = {name: draw(columns) for name in draw(st.lists(st.sampled_from("abc"), unique=True))}
    of_request = {name for name in odd if draw(st.booleans())}
    divided = draw(_divided(requests))
    names, told_by_path = draw(_names(len(divided), [".parquet", ".pq", ""]))
    files, parts, drawn = {}, [], []
    for name, part, constants in zip(names, divided, told_by_path, strict=True):
        there = [c for c in odd if draw(st.integers(0, 7))]
        kinds = {c: draw(odd[c].kinds) for c in there} | {c: draw(st.sampled_from(keys[c][0])) for c in keys}
        if there and not draw(st.integers(0, 19)):
            kinds[there[0]] = draw(odd[there[0]].kinds | columns.flatmap(lambda c: c.kinds).filter(_takes_anything))
        rows = []
        for request in part:
            shared = {c: draw(odd[c].values) for c in there if c in of_request}
            for numbers in request:
                own = {c: draw(odd[c].values) for c in there if c not in of_request}
                made = {c: keys[c][1](n) for c, n in zip(keys, numbers, strict=True)}
                rows.append({**made, **shared, **own})
        options = draw(_WRITERS)
        content = _parquet(rows, {c: kinds[c] for c in draw(st.permutations(list(kinds)))}, options)
        if content is None:
            # Another type of a file cannot hold the values, or Arrow writes no such file.
            continue
        files[name] = content
        parts.append([{**r, **constants} for r in plain_parquet(content)])
        drawn.append(f"{ {c: str(k) for c, k in kinds.items()} } {options} {rows}")
    if not files:
        return draw(_parquet_logs())
    return OddLog("parquet", files, tuple(parts), "\n  ".join(drawn))


def _parquet(rows: Rows, kinds: dict[str, pa.DataType], options: dict[str, Any]) -> bytes | None:
    try:
        table = pa.table({c: _array([r[c] for r in rows], kind) for c, kind in kinds.items()})
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream, **options)
    except (pa.ArrowException, OSError, TypeError, ValueError, OverflowError):
        return None
    return bytes(stream.getvalue())


def _takes_anything(kind: pa.DataType) -> bool:
    """Whether Arrow refuses values that are none of a type; of a map's pairs that are null it ends the process."""
    return "map<" not in str(kind)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.float16():
        return pa.array(values, pa.float32()).cast(kind)
    return pa.array(values, kind)


def plain_parquet(content: bytes) -> Rows:
    """What PyArrow alone reads from a file."""
    file = pq.ParquetFile(pa.BufferReader(content), coerce_int96_timestamp_unit="us")
    # Arrow cannot read nested dictionaries of several row groups at once.
    rows = [row for group in range(file.num_row_groups) for row in file.read_row_group(group).to_pylist()]
    return [{f.name: told(row[f.name], f.type) for f in file.schema_arrow} for row in rows]


# -- texts --------------------------------------------------------------------------------------------------------

_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}
_FIELDS = st.one_of(
    st.text(' ,;|\t"\n0042.e-x', max_size=5),
    st.sampled_from(["", "1", "-0", "007", "1e3", "1e999", "true", "False", "NA", "null", "9223372036854775808"]),
)  # fmt: skip
_NUMERALS = st.sampled_from(["", "0", "-1", "25", "9007199254740993"])
_FRACTIONS = st.sampled_from(["", "0.5", "-1.25", "3", "1e3"])


@st.composite
def _csv_logs(draw: st.DrawFn) -> OddLog:
    requests = draw(_requests())
    odd = {
        name: draw(st.sampled_from([_FIELDS, _FIELDS, _NUMERALS, _FRACTIONS, st.sampled_from(["true", "false", ""])]))
        for name in draw(st.lists(st.sampled_from("abc"), unique=True))
    }
    prefix, pack = draw(st.sampled_from(["", "0", "u "])), draw(st.sampled_from(list(_PACKED)))
    divided, tabs = draw(_divided(requests)), draw(st.booleans())
    names, told_by_path = draw(_names(len(divided), [(".tsv" if tabs else ".csv") + pack]))
    files, parts, drawn = {}, [], []
    for name, part, constants in zip(names, divided, told_by_path, strict=True):
        header = draw(
            st.permutations(["user_id", "request_id", "item_id", *(c for c in odd if draw(st.integers(0, 7)))])
        )
        rows = [
            {"user_id": f"{prefix}{user}", "request_id": str(number), "item_id": str(item)}
            | {c: draw(odd[c]) for c in header if c in odd}
            for request in part
            for user, number, item in request
        ]
        out = io.StringIO(newline="")
        delimiter = "\t" if tabs else draw(st.sampled_from(",;|"))
        ends, quoting = draw(st.sampled_from(["\n", "\r\n"])), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.DictWriter(out, header, delimiter=delimiter, lineterminator=ends, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        mark = "\ufeff" if draw(st.booleans()) else ""
        files[name] = _PACKED[pack]((mark + out.getvalue()).encode())
        plain = csv.DictReader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter)
        parts.append([{**r, **constants} for r in plain])
        drawn.append(repr(mark + out.getvalue()))
    return OddLog("csv", files, tuple(parts), "\n  ".join(drawn))


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64), st.integers(-5, 5), st.just(0.5),
        st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip
_JSON_KINDS = [
    st.integers(-5, 5), st.integers(-5, 5) | st.floats(-1, 1), st.booleans(), st.text(max_size=4),
    st.lists(st.integers(-5, 5) | st.just(0.5), max_size=2), st.lists(st.text(max_size=2), max_size=2),
    st.fixed_dictionaries({}, optional={"x": st.integers(0, 5) | st.just(0.5), "y": st.none() | st.text(max_size=2)}),
    st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1),
]  # fmt: skip


@st.composite
def _json_logs(draw: st.DrawFn) -> OddLog:
    requests = draw(_requests())
    odd = {
        name: st.none() | draw(st.sampled_from(_JSON_KINDS)) if draw(st.integers(0, 5)) else _JSON
        for name in draw(st.lists(st.sampled_from("abc"), unique=True))
    }
    as_text, pack = draw(st.booleans()), draw(st.sampled_from(list(_PACKED)))
    divided = draw(_divided(requests))
    names, told_by_path = draw(_names(len(divided), [".jsonl" + pack, ".json" + pack]))
    files, parts = {}, []
    for name, part, constants in zip(names, divided, told_by_path, strict=True):
        rows = [
            {"user_id": f"{user:02d}" if as_text else user, "request_id": number, "item_id": item}
            | {c: draw(odd[c]) for c in odd if draw(st.integers(0, 4))}
            for request in part
            for user, number, item in request
        ]
        ends, ascii_only = draw(st.sampled_from(["\n", "\r\n", "\n\n"])), draw(st.booleans())
        files[name] = _PACKED[pack](ends.join(json.dumps(r, ensure_ascii=ascii_only) for r in rows).encode())
        parts.append([{**r, **constants} for r in rows])
    return OddLog("json", files, tuple(parts), str(parts))


def odd_logs(*kinds: str) -> st.SearchStrategy[OddLog]:
    """Logs of some kinds; of all by default, Parquet as often as the others together."""
    known = {"parquet": _parquet_logs(), "csv": _csv_logs(), "json": _json_logs()}
    return st.one_of([known[kind] for kind in kinds or ("parquet", "parquet", "csv", "json")])
