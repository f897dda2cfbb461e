"""Datasets that an earlier commit wrote are read, written to, backfilled and rolled back as if written today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.iceberg.catalog import spark_catalog_conf
from dedup_storage.lake.session import get_spark
from dedup_storage.reader import DedupDataset
from tests.compatibility.archive import EXPECTED, unpack
from tests.compatibility.contents import COLUMNS, KINDS, USERS, Kind, canonical, plain
from tests.spark.helpers import RARELY, day

ARCHIVE = Path(__file__).parent / "c49b8a4.tar.gz"
# Runs after which rows are found in another way than before: a rollback, a replaced day, a promoted group with hidden
# rows, late labels and a group without rows for some dates.
TURNS = frozenset({"back", "day-2-again", "fix", "age-again"})
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def place(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kept lake, unpacked; its catalog is one more of the suite's session."""
    place = unpack(ARCHIVE, tmp_path_factory.mktemp("kept"))
    kept = KINDS["iceberg_split"].settings(settings, place)
    get_spark(kept)
    # A write goes on in a new session, which has of settings such as these only what the application began with.
    conf = spark.sparkContext._jsc.sc().conf()
    for key, value in spark_catalog_conf(kept).items():
        conf.set(key, value)
        # The session that was joined is the active one, which a test before may have left another than the suite's.
        spark.conf.set(key, value)
    return place


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def lake(settings: Settings, place: Path, kind: Kind) -> Settings:
    return kind.settings(settings, place)


@pytest.fixture
def ds(spark: SparkSession, lake: Settings, kind: Kind) -> Dataset:
    return Dataset.open(spark, lake, kind.name)


@pytest.fixture
def expected(place: Path, kind: Kind) -> dict[str, Any]:
    """What was read of the dataset at the time."""
    found: dict[str, Any] = json.loads((place / EXPECTED).read_text(encoding="utf-8"))[kind.name]
    return found


def records(table: dict[str, Any]) -> Rows:
    """Rows of a canonical table by column name."""
    names = [name for name, _ in table["columns"]]
    return [dict(zip(names, row, strict=True)) for row in table["rows"]]


def ordered(rows: Rows, columns: tuple[str, ...]) -> list[str]:
    """Some columns of the rows, in an order of their own."""
    return sorted(json.dumps([row[c] for c in columns]) for row in rows)


def delivered(dataset: DedupDataset) -> Rows:
    """The flat log from a reader's batches, without times."""
    found = []
    for batch in dataset:
        columns = {name: batch[name].decode() for name in batch if name not in ("ts", "event_date", "position")}
        for place, owner in enumerate(batch.inverse_indices.tolist()):
            found.append(
                {
                    name: plain(values[owner if batch.grains[name].value == "request" else place])
                    for name, values in columns.items()
                }
            )
    return found


@pytest.mark.long
@pytest.mark.parametrize("by_spark", [TURNS, pytest.param(None, marks=pytest.mark.slow)], ids=["turns", "all"])
def test_every_version_is_read_as_then(
    ds: Dataset, lake: Settings, expected: dict[str, Any], by_spark: frozenset[str] | None
) -> None:
    """What is said of a version, its groups, and its rows: each by the reader, some or all of them by Spark too."""
    then = expected["versions"]
    now = ds.versions()[: len(then)]
    assert [v["run_id"] for v in then] == [info.run_id for info in now]
    for info, version in zip(now, then, strict=True):
        said = {"version": info.version, "job": info.job, "parent": info.parent, "pins": list(info.pins)}
        assert said == {key: version[key] for key in said}
        groups = {
            name: {"grain": group.grain.value, "columns": dict(group.types), "promoted": group.promoted}
            for name, group in ds.features(info.version).items()
        }
        assert groups == version["features"]
        if by_spark is None or info.run_id in by_spark:
            assert canonical(ds.logs(info.version)) == version["logs"], info.run_id
        columns = tuple(name for name, _ in version["logs"]["columns"] if name != "ts")
        read = delivered(DedupDataset(ds.name, lake, version=info.version, batch_size=16))
        assert ordered(read, columns) == ordered(records(version["logs"]), columns), info.run_id


@pytest.mark.long
def test_samples_hold_the_same_users(ds: Dataset, lake: Settings, expected: dict[str, Any]) -> None:
    assert [s.name for s in ds.samples()] == list(expected["samples"]) == ["half", "some"]
    for name, sample in expected["samples"].items():
        version = sample["version"]
        assert canonical(ds.sample_users(name, version)) == sample["users"]
        users = {row["user_id"] for row in records(sample["users"])}
        assert 0 < len(users) < USERS
        wanted = [row for row in records(expected["versions"][version - 1]["logs"]) if row["user_id"] in users]
        sampled = canonical(ds.logs(version, sample=name))
        assert ordered(records(sampled), COLUMNS) == ordered(wanted, COLUMNS)
        read = delivered(DedupDataset(ds.name, lake, version=version, sample=name))
        assert {row["user_id"] for row in read} == users
        assert len(read) == len(wanted)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [pytest.param("iceberg_split", marks=RARELY), "iceberg_flat", "delta_split"], indirect=True
)
def test_work_goes_on(spark: SparkSession, ds: Dataset, lake: Settings, kind: Kind, expected: dict[str, Any]) -> None:
    """A further day with a new user, a refresh, a backfill, late labels, a rollback."""
    then, plain_log = expected["versions"], tuple(c for c in COLUMNS if c != "ts")
    newest = then[-1]["version"]
    # A run id stays spent.
    assert ds.write(kind.log(spark, [1, 2]), run_id="days-1-2", gate=False).already_published
    more = kind.log(spark, [5], 500, users=USERS + 1)
    assert ds.write(more, run_id="day-5", gate=False).version == newest + 1
    wanted = [*records(then[-1]["logs"]), *records(canonical(more.frame))]
    assert ordered(records(canonical(ds.logs())), COLUMNS) == ordered(wanted, COLUMNS)

    for group in ("age", "match", "place"):
        assert not ds.refresh_features(group, gate=False).up_to_date, group
    for row in records(canonical(ds.logs())):
        computed = (len(row["hist"]), row["item"] in row["hist"], row["country"].lower())
        assert (row["n"], row["seen"], row["place"]) == computed
    ds.refresh_sample("some")
    strata = {s.stratum: s.users for s in next(s for s in ds.samples() if s.name == "some").strata}
    assert sum(strata.values()) == USERS + 1

    some = Affected(users=[kind.user(1), kind.user(2)])
    ds.backfill(Change(expressions={"y": "y + 100"}), some, run_id="fix-2", gate=False)
    for row in wanted:
        row["y"] += 100 if row["user_id"] in some.users else 0
    # The label that came late at the time is newer than the first of these; the second is the newest.
    late = [(1, 1, 31, 7, day(8)), (2, 2, 12, 8, day(8)), (5, 778, 1, 1, day(8))]
    merged = ds.merge_labels(kind.late(spark, late), "y", "at", run_id="labels-2", gate=False)
    assert (merged.stale_rows, merged.merged_rows, merged.unknown_rows) == (1, 1, 1)
    for row in wanted:
        if (row["user_id"], row["request_id"], row["item"]) == (kind.user(2), 2, 12):
            row["y"] = 8
    assert ordered(records(canonical(ds.logs())), COLUMNS) == ordered(wanted, COLUMNS)
    assert ordered(delivered(DedupDataset(ds.name, lake)), plain_log) == ordered(wanted, plain_log)

    ds.rollback(1)
    assert canonical(ds.logs()) == then[0]["logs"]
    assert ds.features() == {}
    read = delivered(DedupDataset(ds.name, lake))
    assert ordered(read, plain_log) == ordered(records(then[0]["logs"]), plain_log)
    assert canonical(ds.logs(newest)) == then[-1]["logs"]
