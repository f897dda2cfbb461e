"""Files that are no longer those that were found."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import InputError
from dedup_storage.sources import source as sources
from dedup_storage.sources.source import open_source
from dedup_storage.sources.texts import Dialect


def _put(place: Path, value: int) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"u": [value]}), place)
    return place


@pytest.mark.parametrize("address", ["log", "log/*.parquet", "log/a.parquet", "log/{a,b}.parquet"])
def test_another_file_of_the_same_size_is_seen(tmp_path: Path, address: str) -> None:
    place, other = _put(tmp_path / "log/a.parquet", 1), _put(tmp_path / "other.parquet", 2)
    source = open_source(str(tmp_path / address))
    # A file that came later is none of the log.
    _put(tmp_path / "log/b.parquet", 3)
    source.require_unchanged()
    assert place.stat().st_size == other.stat().st_size
    os.replace(other, place)
    os.utime(place, ns=(1, 1))
    with pytest.raises(InputError, match=r"a\.parquet was changed while it was read.*another time of change"):
        source.require_unchanged()
    place.unlink()
    with pytest.raises(InputError, match=r"a\.parquet is not there any more"):
        source.require_unchanged()


def test_what_was_copied_is_looked_at_when_the_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a.csv"
    place.write_text("u,v\n1,2\n")
    source = open_source(str(place))
    place.write_text("u,v\n3,4\n")
    # The rows were read, and are those of the first file.
    source.require_unchanged()
    assert pa.concat_tables(source.tables()).to_pylist() == [{"u": 1, "v": 2}]
    read = sources.csv_batches

    def exchanged(dialect: Dialect) -> object:
        found = list(read(dialect))
        pacsv.write_csv(pa.table({"u": [5], "v": [66]}), place)
        return iter(found)

    monkeypatch.setattr(sources, "csv_batches", exchanged)
    with pytest.raises(InputError, match=r"a\.csv was changed while it was read.*bytes at first"):
        open_source(str(place))
