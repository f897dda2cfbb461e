"""Erasure: the users are in no version, no table, no sample and no file, and everybody else is as before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep.forget_summary import content_digest
from dedup_storage.errors import InputError, UsageError
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.delta.format import DeltaFormat
from dedup_storage.lake.outdated import stale_cells
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.contract.test_convert import StoppedError
from tests.contract.test_reader import rows_of
from tests.integration.crash_jobs import GONE, erasable_rows
from tests.integration.test_reader_spark import read
from tests.spark.helpers import flat_schema, multiset, same_rows

KEPT = f"user_id not in ({', '.join(map(str, GONE))})"


def log(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    return RawLog.from_frame(erasable_rows(spark, days, first_request), flat_schema(buckets=2))


def odd_log(spark: SparkSession) -> RawLog:
    """A day with one request whose country changes inside it."""
    changing = F.when(F.expr("request_id = 500 and item % 2 = 0"), "XX").otherwise(F.col("country"))
    return RawLog.from_frame(erasable_rows(spark, [3], 500).withColumn("country", changing), flat_schema(buckets=2))


@pytest.fixture
def ds(spark: SparkSession, lake: Settings, name: str) -> Dataset:
    """Four versions: written, a day replaced, a feature group, a day with one inconstant request; a sample beside."""
    raw = log(spark, [1, 2])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    ds.write(log(spark, [1], 100), run_id="second", mode="replace", gate=False)
    ds.features.add("seen", {"n": "size(hist)"}, gate=False)
    ds.write(odd_log(spark), run_id="third", on_inconstant="quarantine", gate=False)
    ds.samples.make("some", fraction=0.5, strata=[{"name": "country", "column": "country"}])
    ds.pin(1, "paper")
    return ds


def folder(ds: Dataset) -> Path:
    return Path(str(ds.settings.local_warehouse)) / ds.name


def stored_users(ds: Dataset) -> set[Any]:
    """Every user id in every Parquet file on the disk."""
    found: set[Any] = set()
    for path in folder(ds).rglob("*.parquet"):
        if "_delta_log" not in path.parts and "_versions" not in path.parts:
            found |= set(pq.read_table(path, columns=["user_id"])["user_id"].to_pylist())
    return found


def log_texts(ds: Dataset) -> Iterator[tuple[str, str]]:
    """Every file of the tables' logs and of what runs stage, as text; of checkpoints the statistics."""
    for path in folder(ds).rglob("*"):
        if path.suffix in (".json", ".crc"):
            yield path.name, path.read_bytes().decode("latin-1")
        elif path.suffix == ".parquet" and "_delta_log" in path.parts:
            for add in pq.read_table(path, columns=["add"])["add"].to_pylist():
                yield path.name, str(add)


def outdated(ds: Dataset, version: int) -> dict[str, set[Cell]]:
    """Of each feature group what is out of date at a version, and what would be if its rows depended on other users."""
    cut = ds.handle.cut(version)
    groups = ds.features(version)
    asked = {**groups, **{f"{n} across": g.model_copy(update={"across_users": True}) for n, g in groups.items()}}
    return {name: stale_cells(cut.meta, cut.spec, cut.version, group) for name, group in asked.items()}


def told(ds: Dataset) -> set[int]:
    """Erased ids that some such text has."""
    return {user for _, text in log_texts(ds) for user in GONE if str(user) in text}


@pytest.mark.slow
def test_users_are_gone_from_every_version_and_file(spark: SparkSession, lake: Settings, ds: Dataset) -> None:
    numbers = [v.version for v in ds.versions()]
    before = {n: ds.logs(n).filter(KEPT).localCheckpoint() for n in numbers}
    theirs = {n: ds.logs(n).filter(f"not ({KEPT})").count() for n in numbers}
    sampled = multiset(ds.logs(sample="some").filter(KEPT))
    known = {(v.version, v.run_id, v.pins) for v in ds.versions()}
    stale = {n: outdated(ds, n) for n in numbers}
    assert stale[3] == {"seen": set(), "seen across": set()}
    assert {cell.low for cell in stale[4]["seen"]} == {dt.date(2024, 1, 3)}
    assert set(GONE) <= stored_users(ds)
    planned = ds.forget_users(GONE, dry_run=True)
    counted = {t.table: t.rows for t in planned.tables}
    assert (planned.users, planned.not_found, planned.clean, planned.digest) == (2, 0, None, None)
    assert counted["impressions"] == theirs[numbers[-1]]
    assert {v.version for v in ds.versions()} == set(numbers)
    delta = isinstance(ds.tables, DeltaFormat)
    assert told(ds) == (set(GONE) if delta else set())

    done = ds.forget_users(GONE, "gdpr-1")
    assert (done.version, done.versions_rewritten, done.clean) == (numbers[-1] + 1, tuple(numbers), True)
    assert done.digest == content_digest(done.model_dump(mode="json"))
    assert all((t.rows_left, t.bounds_left) == (0, 0) for t in done.tables)
    assert not set(GONE) & stored_users(ds)
    assert told(ds) == set()
    for number, expected in before.items():
        same_rows(ds.logs(number), expected)
        assert ds.versions()[number - 1].rows["impressions"] == expected.count()
    same_rows(ds.logs(), before[numbers[-1]])
    assert read(DedupDataset(ds.name, lake, version=1)) == rows_of(ds, 1)
    assert read(DedupDataset(ds.name, lake)) == rows_of(ds)
    assert set(ds.features()) == {"seen"}
    # A row of its own user follows as before; one that depends on other users is to be computed without the erased.
    assert {n: outdated(ds, n)["seen"] for n in numbers[2:]} == {n: stale[n]["seen"] for n in numbers[2:]}
    newest = outdated(ds, done.version)
    assert newest["seen"] == stale[4]["seen"]
    first = Cell(dt.date(2024, 1, 1), dt.date(2024, 1, 1), None)
    assert any(cell.overlaps(first) for cell in newest["seen across"])
    assert multiset(ds.logs(sample="some")) == sampled
    assert {(v.version, v.run_id, v.pins) for v in ds.versions()[:-1]} == known

    # Run again, it is done; for nobody's rows, nothing is left to do. The dataset works on.
    again = ds.forget_users(GONE[::-1], "gdpr-1")
    assert again.already_done
    assert again.model_dump_json() == done.model_dump_json()
    other = ds.forget_users(GONE, "gdpr-2")
    assert (other.version, other.versions_rewritten, other.clean, other.not_found) == (done.version, (), True, 2)
    assert ds.write(odd_log(spark), run_id="third", on_inconstant="quarantine", gate=False).already_published
    ds.features.refresh("seen", gate=False)
    ds.rollback(1)
    ds.write(log(spark, [4], 900), gate=False)
    same_rows(ds.logs(), before[1].unionByName(log(spark, [4], 900).frame))
    ds.maintain(compact=False)
    same_rows(ds.logs(1), before[1])


def test_what_is_refused(standing: Dataset) -> None:
    ds = standing
    with pytest.raises(UsageError, match="no user is given"):
        ds.forget_users([])
    with pytest.raises(InputError, match=r"some of the users given are no ids: .* 1 of 2: number 1") as refused:
        ds.forget_users(["secret-name", "5"])
    assert "secret-name" not in str(refused.value)
    assert [v.version for v in ds.versions()] == [1]


@pytest.mark.long
def test_rows_that_a_run_has_staged_refuse_an_erasure_on_delta(
    spark: SparkSession, settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dedup_storage.dataset.write import writer as module

    lake = settings.model_copy(update={"format": "delta"})
    raw = log(spark, [1])
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, gate=False)

    def meanwhile(point: str) -> None:
        if point == "write:staged":
            monkeypatch.setattr(module, "reached", lambda _: None)
            with pytest.raises(UsageError, match=r"runs are at work on .*rows in impressions, requests"):
                ds.forget_users(GONE)
            raise StoppedError

    monkeypatch.setattr(module, "reached", meanwhile)
    with pytest.raises(StoppedError):
        ds.write(log(spark, [2], 100), gate=False)
    # The run that failed took its files away.
    assert ds.forget_users(GONE).clean
    same_rows(ds.logs(), raw.frame.filter(KEPT))
