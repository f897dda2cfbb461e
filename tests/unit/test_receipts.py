"""Receipts of erasures: unchanged, of this dataset, and what a run's record and a proof say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, content_digest, scanned, signed
from dedup_storage.dataset.upkeep.receipt import ErasureRecord, erasure_request, read_receipt
from dedup_storage.errors import DedupStorageError, InputError, UsageError
from dedup_storage.lake.stored_rows import Seen
from dedup_storage.lake.upkeep import Remains, TableErasure, remains_of

BEGUN = ForgetSummary(
    dataset="shop",
    run_id="gdpr",
    dataset_id="id-1",
    dry_run=False,
    users=2,
    not_found=1,
    users_digest="pbkdf2-sha256:1:00:11",
    version=3,
    versions_rewritten=(1, 3),
    tables=(TableErasure(table="requests", rows=4, files=2, snapshots_rewritten=2),),
    seconds={"find": 1.25},
)
RECEIPT = signed(scanned(BEGUN, {"requests": Remains(files=7)}, 4))


RECORD = ErasureRecord(request=erasure_request(2, "a:b").text, receipt=RECEIPT).model_dump_json()


def dataset(identity: str = "id-1", **erasures: str) -> Any:
    known = erasures or {"gdpr": RECORD}
    return SimpleNamespace(identity=identity, erasures=known, spec=SimpleNamespace(name="shop"))


def stored(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps({**RECEIPT.model_dump(mode="json"), **changes}, indent=2))
    return path


def test_a_receipt_says_what_was_there_and_what_is_left(tmp_path: Path) -> None:
    assert RECEIPT.clean is True
    (table,) = RECEIPT.tables
    assert (table.rows, table.files, table.files_read, table.rows_left, table.bounds_left) == (4, 2, 7, 0, 0)
    # As a file, as a mapping and as it is, with and without other blanks.
    for given in (stored(tmp_path), str(stored(tmp_path)), json.loads(stored(tmp_path).read_text()), RECEIPT):
        assert read_receipt(given, dataset()) == RECEIPT
    left = scanned(BEGUN, {"requests": Remains(files=7, rows=1), "quarantine": Remains(unreadable=1)}, 4)
    assert left.clean is False
    assert [(t.table, t.rows, t.rows_left, t.unreadable_files) for t in left.tables] == [
        ("requests", 4, 1, 0),
        ("quarantine", 0, 0, 1),
    ]
    assert "already_done" not in RECEIPT.model_copy(update={"already_done": True}).model_dump_json()


@pytest.mark.parametrize(
    "changes", [{"users": 3}, {"clean": False}, {"erased_at": "2020-01-01T00:00:00Z"}, {"digest": "0" * 64}]
)
def test_a_changed_receipt_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"receipt\.json was changed since the erasure wrote it"):
        read_receipt(stored(tmp_path, **changes), dataset())


def forged(**changes: Any) -> dict[str, Any]:
    """The receipt with changes, and a digest that fits them."""
    content = {**RECEIPT.model_dump(mode="json"), **changes}
    return {**content, "digest": content_digest(content)}


def test_a_receipt_that_was_signed_anew_is_not_the_one_that_the_dataset_knows() -> None:
    with pytest.raises(InputError, match="was changed since") as told:
        read_receipt(forged(not_found=0), dataset())
    assert str(RECEIPT.digest) in str(told.value)
    with pytest.raises(UsageError, match=r"of the run gdp, and shop knows of no such erasure; .* gdpr"):
        read_receipt(forged(run_id="gdp"), dataset())


def test_a_run_that_is_not_done_has_no_clean_receipt() -> None:
    begun = ErasureRecord(request="{}", receipt=BEGUN).model_dump_json()
    # What a stopped run found is no receipt yet.
    assert ErasureRecord.stopped(dataset(gdpr=RECORD, other=begun)) == ["other"]
    unclean = signed(scanned(BEGUN, {"requests": Remains(rows=1)}, 4))
    assert read_receipt(unclean, dataset(gdpr=begun)) == unclean
    with pytest.raises(InputError, match=r"the run gdpr is not done; .* got one of a run that is done"):
        read_receipt(RECEIPT, dataset(gdpr=begun))
    with pytest.raises(InputError, match=r"the run gdpr is not done; .* got one of other users"):
        read_receipt(forged(clean=False, users_digest="x"), dataset(gdpr=begun))


def test_a_receipt_of_another_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is of another dataset; expected a receipt of shop .id-2.; .* of before"):
        read_receipt(stored(tmp_path), dataset("id-2"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "a file that is no JSON"),
        ("[1]", "JSON of another kind"),
        ('{"dataset": "shop"}', "JSON of another kind"),
        (signed(BEGUN).model_copy(update={"dry_run": True, "users_digest": None}).model_dump_json(), "a dry run"),
    ],
)
def test_what_is_no_receipt(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"r\.json is no receipt of an erasure; .*{told}"):
        read_receipt(path, dataset())
    with pytest.raises(DedupStorageError, match=r"none\.json cannot be read: No such file"):
        read_receipt(tmp_path / "none.json", dataset())


def test_rows_are_told_by_the_versions_that_name_their_files() -> None:
    snapshots = {1: {"t": 10}, 2: {"t": 11}, 3: {"other": 5}}
    meta = SimpleNamespace(version_numbers=[1, 2, 3], snapshots=snapshots.__getitem__)
    seen = Seen(5, {"a.parquet": 2, "b.parquet": 3, "c.parquet": 1})
    named = {"file:/x/a.parquet": {10, 11}, "file:/x/b.parquet": {11}, "file:/x/d.parquet": {10}}
    left = remains_of(meta, "t", seen, named, 0)  # type: ignore[arg-type]
    assert (left.versions, left.unnamed, left.rows, left.clean) == ({1: 2, 2: 5}, 1, 6, False)
