"""Odd logs of several files: what a source gives is what a plain reading of each file gives, or it is refused by name.

Every type of Arrow that files hold, nested, in files of other columns, other orders and other types.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st

from dedup_storage.errors import InputError
from dedup_storage.sources.source import Source, Wanted, open_source

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
_TIMES = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))
# Type -> its values.
_SCALARS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 2**8 - 1),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): _TEXTS,
    pa.large_string(): _TEXTS,
    pa.string_view(): _TEXTS,
    pa.dictionary(pa.int32(), pa.string()): _TEXTS,
    pa.binary(): st.binary(max_size=4),
    pa.date32(): st.dates(),
    pa.timestamp("ms"): _TIMES.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    pa.timestamp("us"): _TIMES,
    pa.timestamp("us", "UTC"): _TIMES.map(lambda t: t.replace(tzinfo=dt.UTC)),
    pa.decimal128(10, 2): st.integers(-(10**9), 10**9).map(lambda n: Decimal(n).scaleb(-2)),
    pa.time64("us"): st.times(),
    pa.null(): st.none(),
}
_TYPES = st.recursive(
    st.sampled_from(list(_SCALARS)),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        st.tuples(inner, inner).map(lambda pair: pa.struct([("a", pair[0]), ("b", pair[1])])),
        inner.map(lambda kind: pa.struct([("a", kind)])),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=3,
)


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if kind in _SCALARS:
        return st.none() | _SCALARS[kind]
    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({f.name: _values(f.type) for f in kind})
    if pa.types.is_map(kind):
        return st.none() | st.dictionaries(_TEXTS, _values(kind.item_type), max_size=2).map(lambda m: list(m.items()))
    return st.none() | st.lists(_values(kind.value_type), max_size=3)


@st.composite
def _tables(draw: st.DrawFn) -> list[pa.Table]:
    """One to three files; a column may be missing in some, or have another type."""
    main = {name: draw(_TYPES) for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))}
    tables = []
    for _ in range(draw(st.integers(1, 3))):
        names = draw(st.permutations(list(main)))
        kept = names[: draw(st.integers(1, len(names)))]
        kinds = {n: draw(_TYPES) if draw(st.integers(0, 9)) == 0 else main[n] for n in kept}
        count = draw(st.integers(0, 3))
        columns = {n: pa.array(draw(st.lists(_values(k), min_size=count, max_size=count)), k) for n, k in kinds.items()}
        tables.append(pa.table(columns))
    return tables


def _plain(value: Any) -> Any:
    """A value without the way in which it is kept: lists of pairs for maps, instants for times."""
    if isinstance(value, dict):
        # A field that another file's struct lacks is null there.
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
    return value


def _told(table: pa.Table) -> list[dict[str, Any]]:
    return [_plain(row) for row in table.to_pylist()]


def _opened(folder: str) -> tuple[Source | None, str]:
    try:
        return open_source(folder), ""
    except InputError as error:
        return None, str(error)


@given(_tables())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_source_gives_what_each_file_holds_or_names_what_it_refuses(tables: list[pa.Table]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, table in enumerate(tables):
            try:
                pq.write_table(table, Path(folder) / f"{number}.parquet")
            except pa.ArrowNotImplementedError:
                # PyArrow itself writes no such file, such as view types inside a map of structs.
                reject()
        source, refusal = _opened(folder)
        event("equal" if source else "refused")
        if source is None:
            assert "the column " in refusal
            return
        found = [row for part in source.tables() for row in _told(part)]
        assert found == [row for table in tables for row in _told(table)]
        assert set(source.schema.names) == {name for table in tables for name in table.column_names}


_DIALECTS = st.sampled_from([(",", "csv"), (";", "csv"), ("|", "csv"), ("\t", "tsv")])


@given(
    dialect=_DIALECTS,
    ends=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    rows=st.lists(st.tuples(*[st.text(' ,;|\t"\n\r0042.e-x', max_size=5)] * 3), min_size=1, max_size=4),
)
@settings(max_examples=300)
def test_csv_gives_the_texts_that_were_written(
    dialect: tuple[str, str], ends: str, mark: bool, quoting: int, rows: list[tuple[str, ...]]
) -> None:
    delimiter, suffix = dialect
    out = io.StringIO()
    if any("\r" in field for row in rows for field in row):
        # Without quotes a carriage return is the end of a line, and Python quotes it only where it ends its own.
        quoting = csv.QUOTE_ALL
    writer = csv.writer(out, delimiter=delimiter, lineterminator=ends, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow("uit")
    writer.writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{suffix}"
        path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + out.getvalue().encode())
        source = open_source(str(path), wanted=Wanted(needed=("u",), texts=("u", "i", "t")))
        found = [tuple(row.values()) for part in source.tables() for row in part.to_pylist()]
    # An empty field without quotes is no value; a row of nothing but such is an empty line.
    told = [tuple(v or None for v in row) for row in rows]
    assert [tuple(v or None for v in row) for row in found] == told
