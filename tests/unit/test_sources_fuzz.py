"""Odd logs of several files: what a source gives is what a plain reading of each file gives, or it is refused by name.

Every type of Arrow that files hold, nested, in files of other columns, other orders and other types; CSV dialects; JSON
lines. ``tests/sources/test_fuzz.py`` holds Spark against the same logs.
"""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dedup_storage.sources.source import Wanted, open_source
from tests.sources.faults import FAULTS
from tests.sources.odd_logs import OddLog, by_arrow, odd_logs, rows_or_refusal
from tests.strategies import examples


def _taken(log: OddLog) -> bool:
    """Whether a log is taken, with the rows that its files hold."""
    with tempfile.TemporaryDirectory() as folder:
        place = log.lay(Path(folder))
        rows, refusal = rows_or_refusal(lambda: by_arrow(place))
    if rows is None:
        assert log.is_refused_by(refusal.replace(folder, "")), refusal
        return False
    assert log.is_told_by(rows), rows
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_what_went_wrong_once_is_right_or_refused(fault: str) -> None:
    log, taken = FAULTS[fault]
    assert _taken(log) is taken


@given(log=odd_logs())
@examples(120)
def test_a_source_gives_what_each_file_holds_or_names_what_it_refuses(log: OddLog) -> None:
    event(f"{log.kind}: {'equal' if _taken(log) else 'refused'}")


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
