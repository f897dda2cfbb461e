"""Erasure before and after everything else that changes a dataset: no byte tells of the user, all others are as before.

Users, and what only they have in each column, are texts that nothing else is like. One dataset of each format goes
through all operations between two erasures, and each operation is taken by itself: all by `make test-slow`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import ForgetSummary, Policy
from dedup_storage.errors import UsageError
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.layout import Layout
from dedup_storage.reader.open.vocabulary import open_vocabulary
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import WHOLE, day, flat_schema, frame, multiset
from tests.spark.stored_bytes import telling_files

FORMATS = ["iceberg", "delta"]
# Changes a dataset for the n-th time, in which some users are left.
Operation = Callable[..., None]
TYPES = (
    "user_id string, request_id bigint, ts timestamp, country string, device string, hist array<string>, "
    "item string, y int"
)
LABEL_TYPES = "user_id string, request_id bigint, item string, y int, at timestamp"
# The least, one longer than any bound that metadata keeps, and the greatest.
FIRST, LONG, LAST = "aaQFIRSTQaa", "mmQMIDDLEQmm-" + "0123456789" * 5, "zzQLASTQzz"
USERS = [FIRST, "bbQSECONDQbb", "ccQTHIRDQcc", LONG, "nnQFOURTHQnn", "ooQFIFTHQoo", LAST]
# What is in each value of a user's.
MARKS = {user: "".join(filter(str.isupper, user)) for user in USERS}
SCHEMA = flat_schema(columns={"country": "request", "device": "request"}, buckets=2)


def rows(spark: SparkSession, days: list[int], first: int, users: list[str], odd: bool = False) -> DataFrame:
    """Two requests of each user and day, two impressions each; every value has the user's own mark.

    Args:
        spark: The session.
        days, first, users: Which, and the first request.
        odd: The first request of each user has two countries.
    """
    found, request = [], first
    for number in days:
        for user in users:
            mark = MARKS[user]
            for hour in (1, 2):
                for c in range(2):
                    country = f"from-{mark}-{c}" if odd and hour == 1 else f"from-{mark}"
                    found.append((
                        user, request, day(number, hour), country, "web" if request % 2 else "app",
                        [f"seen-{mark}-{n}" for n in range(request % 3 + 1)], f"item-{mark}-{c}", c,
                    ))  # fmt: skip
                request += 1
    return frame(spark, found, TYPES)


def log(spark: SparkSession, days: list[int], first: int, users: list[str] = USERS, odd: bool = False) -> RawLog:
    return RawLog.from_frame(rows(spark, days, first, users, odd), SCHEMA)


def made(spark: SparkSession, settings: Settings, table_format: str, name: str) -> Dataset:
    """Two days, version 1."""
    lake = settings.model_copy(update={"format": table_format})
    raw = log(spark, [1, 2], 0)
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    return ds


# -- what changes a dataset -------------------------------------------------------------------------------------------


def backfilled(strategy: Strategy) -> Operation:
    def run(ds: Dataset, number: int, users: list[str] = USERS) -> None:
        if strategy is not Strategy.MERGE_ON_READ or ds.tables.marks_rows:
            # Half of the users, so that files hold rows that are changed beside rows that are not.
            some, change = Affected(where="user_id < 'n'"), Change(expressions={"y": f"y + {number}"})
            ds.backfill(change, some, run_id=f"{strategy.value}-{number}", strategy=strategy, gate=False)

    return run


def replaced(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    ds.write(log(ds.spark, [2], 100 * number, users=users), run_id=f"day-{number}", mode="replace", gate=False)


def appended(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    """A day with inconstant requests, which are set aside."""
    raw = log(ds.spark, [3 + number], 1000 * number, users=users, odd=True)
    assert ds.write(raw, run_id=f"more-{number}", on_inconstant="quarantine", gate=False).quarantined_rows


def labelled(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    """A label of an impression of each user, and one of an impression that nobody knows."""
    late = [
        (user, request, f"item-{MARKS[user]}-0", number, day(20 + number))
        for user in users
        for request in (2 * USERS.index(user), 777_000 + USERS.index(user))
    ]
    rows = frame(ds.spark, late, LABEL_TYPES)
    assert ds.merge_labels(rows, "y", "at", run_id=f"late-{number}", gate=False).unknown_rows >= len(users)


def grouped(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    if number == 1:
        ds.features.add("seen", {"place": "concat(country, '-', hist[0])"}, run_id="seen-1", gate=False)
    else:
        ds.features.refresh("seen", run_id=f"seen-{number}", gate=False)


def promoted(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    name = f"own_{number}"
    ds.features.add(name, {f"text_{number}": "concat(user_id, '!')"}, run_id=f"{name}-add", gate=False)
    ds.features.promote(name, run_id=f"{name}-promote")


def sampled(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    if number == 1:
        ds.samples.make("some", fraction=1.0, strata=[{"name": "device", "column": "device"}])
    else:
        ds.samples.refresh("some")


def compacted(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    ds.maintain(f"tidy-{number}", expire=False, orphans=False)


def rolled_back(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    ds.rollback(max(ds.metadata().current - 1, 1))


def pinned(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    ds.pin(ds.metadata().current, f"paper_{number}")


def expired(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    ds.maintain(f"old-{number}", policy=Policy(keep_versions=3, keep_days=0), compact=False, orphans=False)


def counted(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    """A vocabulary of items and histories, stored beside the anchor."""
    open_vocabulary(ds.name, ["item", "hist"], ds.settings)


def converted(ds: Dataset, number: int, users: list[str] = USERS) -> None:
    """Into the other format and layout: whoever was erased is not there, whoever is can be erased there too."""
    other = {"iceberg": "delta", "delta": "iceberg"}[ds.settings.format]
    ds.convert(f"{ds.name}_{number}", format=other, layout=Layout.FLAT, drop_features=True)
    turned = Dataset.open(ds.spark, ds.settings.model_copy(update={"format": other}), f"{ds.name}_{number}")
    assert told(turned, *(user for user in MARKS if user not in users)) == set()
    erase(turned, users[-1], number)


OPERATIONS: dict[str, Operation] = {
    **{strategy.value: backfilled(strategy) for strategy in Strategy},
    "labels": labelled,
    "group": grouped,
    "sample": sampled,
    "pin": pinned,
    "promotion": promoted,
    "append": appended,
    "replace": replaced,
    "vocabulary": counted,
    "compaction": compacted,
    "rollback": rolled_back,
    "expiry": expired,
    "conversion": converted,
}

# What continuous integration has time for.
BEFORE = ("merge-on-read", "copy-on-write", "labels", "group", "sample", "pin", "append", "vocabulary", "rollback")
AFTER = ("overwrite", "labels", "compaction")


# -- what is asked of each erasure ------------------------------------------------------------------------------------


def kept_rows(ds: Dataset, *gone: str) -> dict[int, Counter[Any]]:
    """Version -> its rows, without some users."""
    others = ~F.col("user_id").isin(list(gone))
    return {v.version: multiset(ds.logs(v.version).filter(others)) for v in ds.versions()}


def erase(ds: Dataset, user: str, number: int, *before: str) -> ForgetSummary:
    """Erase a user; nothing tells of them or of those erased before, and every version has all else as it had it."""
    rows = kept_rows(ds, user)
    theirs = sum(multiset(ds.logs().filter(F.col("user_id") == user)).values())
    done = ds.forget_users([user], f"gone-{number}")
    assert done.clean, done
    assert (done.users, done.not_found) == (1, 0)
    assert theirs == 0 or done.version == max(rows) + 1
    current = {done.version: rows[max(rows)]} if done.version not in rows else {}
    assert kept_rows(ds) == rows | current
    assert told(ds, user, *before) == set()
    assert ds.verify_erasure(done, [user]).clean
    assert not (found := ds.check().failures), found
    return done


def told(ds: Dataset, *users: str) -> set[str]:
    folder = Path(str(ds.settings.local_warehouse)) / ds.name
    return telling_files(folder, *(MARKS[user] for user in users))


@pytest.mark.slow
@pytest.mark.parametrize("table_format", FORMATS)
def test_erasure_among_others(spark: SparkSession, settings: Settings, name: str, table_format: str) -> None:
    """A user is erased after some operations, and some are done again; then another one, and the first comes back."""
    among(made(spark, settings, table_format, name), BEFORE, AFTER)


@pytest.mark.slow
@pytest.mark.parametrize("table_format", FORMATS)
def test_erasure_among_all_operations(spark: SparkSession, settings: Settings, name: str, table_format: str) -> None:
    among(made(spark, settings, table_format, name), OPERATIONS, OPERATIONS)


def among(ds: Dataset, before: Iterable[str], after: Iterable[str]) -> None:
    for operation in before:
        OPERATIONS[operation](ds, 1)
    # The scan finds what is there.
    assert told(ds, FIRST)
    assert told(ds, LONG)
    receipt = erase(ds, FIRST, 1)
    others = [user for user in USERS if user != FIRST]
    for operation in after:
        OPERATIONS[operation](ds, 2, others)
    assert told(ds, FIRST) == set()
    erase(ds, LONG, 2, FIRST)
    proved(ds, receipt)


def proved(ds: Dataset, receipt: ForgetSummary) -> None:
    """What a verification says of other lists and other datasets, and of a user who comes back."""
    assert ds.verify_erasure(receipt, [FIRST, FIRST]).clean
    with pytest.raises(UsageError, match=r"the users given are not those .* the list of 1 id .* got 2 ids"):
        ds.verify_erasure(receipt, [FIRST, LAST])
    with pytest.raises(
        UsageError, match=r"the run gone-1 published version \d+ with another request: the users differ"
    ):
        ds.forget_users([LAST], "gone-1")
    assert ds.forget_users([FIRST], "gone-1").model_dump_json() == receipt.model_dump_json()
    written = ds.write(log(ds.spark, [28], 90_000, users=[FIRST, LAST]), run_id="back", gate=False).version
    proof = ds.verify_erasure(receipt, [FIRST])
    assert not proof.clean
    assert proof.finding == (
        f"6 rows of the users came back with version {written}, by a later write (run back), in impressions, requests"
    )
    assert proof.versions == tuple(v.version for v in ds.versions())
    with pytest.raises(UsageError, match=r"the run gone-1 is done, and its users are in .* again: 6 rows .*run back"):
        ds.forget_users([FIRST], "gone-1")
    again = ds.forget_users([FIRST], "gone-3")
    assert (again.clean, again.versions_rewritten) == (True, (written,))
    assert ds.verify_erasure(receipt, [FIRST]).clean
    assert told(ds, FIRST, LONG) == set()
    torn(ds, receipt)


def torn(ds: Dataset, receipt: ForgetSummary) -> None:
    """A file that a killed run left in the middle keeps no erasure from being done, and is told."""
    left = Path(str(ds.settings.local_warehouse)) / ds.name / "requests" / "torn.parquet"
    left.write_bytes(b"PAR1 and nothing more")
    proof = ds.verify_erasure(receipt, [FIRST])
    assert proof.finding == "1 file is not whole, so that nobody knows what it holds, in requests"
    done = ds.forget_users([LAST], "gone-4")
    assert (done.clean, {t.table for t in done.tables if t.unreadable_files}) == (False, {"requests"})
    assert told(ds, LAST) == set()
    left.unlink()
    after = ds.forget_users([LAST], "gone-4")
    assert (after.clean, after.already_done, after.version) == (True, False, done.version)
    assert [t.rows for t in after.tables] == [t.rows for t in done.tables]


@pytest.mark.long
@pytest.mark.parametrize("whole", WHOLE)
def test_checkpoints_of_the_second_form(spark: SparkSession, settings: Settings, name: str, whole: bool) -> None:
    """Another tool chose them for a Delta table; files beside them have the least and greatest values of others."""
    ds = made(spark, settings, "delta", name)
    place = f"{settings.warehouse_uri}/{name}/requests"
    spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES ('delta.checkpointPolicy' = 'v2')")
    TableLog(spark, place).checkpoint(DeltaTable(place).version())
    assert [file for file in told(ds, FIRST) if "_sidecars" in file]
    erase(ds, FIRST, 1)
    if whole:
        erase(ds, LONG, 2, FIRST)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operation", list(OPERATIONS))
@pytest.mark.parametrize("table_format", FORMATS)
def test_erasure_before_and_after(
    spark: SparkSession, settings: Settings, name: str, table_format: str, operation: str
) -> None:
    """Erasure after an operation, the operation after an erasure, and erasure after that."""
    ds = made(spark, settings, table_format, name)
    run, others = OPERATIONS[operation], [user for user in USERS if user != FIRST]
    run(ds, 1)
    erase(ds, FIRST, 1)
    run(ds, 2, others)
    assert told(ds, FIRST) == set()
    erase(ds, LONG, 2, FIRST)
    run(ds, 3, [user for user in others if user != LONG])
    assert told(ds, FIRST, LONG) == set()
    erase(ds, LAST, 3, FIRST, LONG)
