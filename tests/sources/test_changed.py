"""Files that others take the place of while a job reads them: what it would write is neither log."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage import faults
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ConflictError, DatasetNotFoundError, InputError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from tests.sources.cases import BASE, SCHEMA, Case, put, rows, text


def _exchange(place: Path, other: Path) -> None:
    """Put a file of the same size in another's place."""
    assert place.stat().st_size == other.stat().st_size
    os.replace(other, place)


def test_a_file_exchanged_during_a_write_is_refused_by_name(
    case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests came of one file, impressions of the other, and the gate saw nothing."""
    put("log/a.parquet", rows(users=(1, 2)))
    later = rows(users=(3, 4))
    pq.write_table(pa.Table.from_pylist(later), "log/b.parquet", compression="none")
    other = Path("other.parquet")
    changed = [{**row, "item_id": row["item_id"] + 1000} for row in later]
    pq.write_table(pa.Table.from_pylist(changed), other, compression="none")
    schema = text("schema.yaml", SCHEMA)

    def watch(point: str) -> None:
        if point == "write:staged-requests" and other.exists():
            _exchange(Path("log/b.parquet"), other)

    monkeypatch.setattr(faults, "watcher", watch)
    # A file that comes beside those of the log is none of it.
    code, said = case.cli("write", "log", "--dataset", name, "--schema", schema, "--no-gate")
    assert not other.exists()
    assert code == 2, said
    assert "log/b.parquet was changed while it was read" in said.replace("\n", " ").replace("  ", " ")
    with pytest.raises(DatasetNotFoundError):
        case.open(name)
    code, said = case.cli("write", "log", "--dataset", name, "--schema", schema, "--no-gate")
    assert code == 0, said
    found = case.logs(name)
    assert sorted(found[found.user_id > 2].item_id) == sorted(row["item_id"] for row in changed)


def test_a_file_that_came_beside_a_log_is_no_change_of_it(case: Case) -> None:
    put("log/a.parquet", rows())
    raw = RawLog.read(case.spark, "./log", schema=LogSchema.from_dict(BASE))
    put("log/b.parquet", rows(day=2))
    raw.require_unchanged()
    Path("log/a.parquet").unlink()
    with pytest.raises(InputError, match=r"log/a\.parquet is not there any more"):
        raw.require_unchanged()
    assert pq.read_table("log/b.parquet").num_rows


def test_what_ends_a_publication_is_told_whatever_comes_of_the_log(
    case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is changed once it has been read is not what went wrong; and something may be written by then."""
    put("log/a.parquet", rows())
    pq.write_table(pa.Table.from_pylist(rows(users=(3,))), "other.parquet")
    raw = RawLog.read(case.spark, "./log", schema=LogSchema.from_dict(BASE))
    dataset = Dataset.create(case.spark, case.settings, name, raw.schema, raw)

    def watch(point: str) -> None:
        if point == "write:audited":
            os.replace("other.parquet", "log/a.parquet")
            raise ConflictError("another run came first")

    monkeypatch.setattr(faults, "watcher", watch)
    with pytest.raises(ConflictError, match="another run came first"):
        dataset.write(raw, gate=False)
    with pytest.raises(InputError, match=r"log/a\.parquet was changed while it was read"):
        raw.require_unchanged()
