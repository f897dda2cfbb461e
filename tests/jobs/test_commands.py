"""The jobs from the command line, one after the other on one dataset; wrong input leaves it unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from typer.testing import CliRunner, Result

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.lake.iceberg.metadata import Lake

SCHEMA = {
    "user": "u",
    "request": "r",
    "item": "i",
    "event_time": "t",
    "labels": ["y"],
    "date_grain": "none",
    "buckets": 2,
}
Run = Callable[..., Result]


@pytest.fixture
def run(spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in the suite's Spark session, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


# Microseconds: the first of January 2024.
_FIRST = 1_704_067_200_000_000


def _log(path: Path, **changes: Any) -> Path:
    """Four impressions of two requests; ``changes`` replaces or, with ``None``, removes columns."""
    micros = pa.timestamp("us", tz="UTC")
    columns: dict[str, Any] = {
        "u": pa.array([1, 1, 2, 2], pa.int64()),
        "r": pa.array([10, 10, 20, 20], pa.int64()),
        "i": pa.array([5, 6, 5, 7], pa.int64()),
        "t": pa.array([_FIRST, _FIRST, _FIRST + 1_000_000, _FIRST + 1_000_000], pa.int64()).cast(micros),
        "hist": pa.array([[1, 2], [1, 2], [3], [3]], pa.list_(pa.int64())),
        "y": pa.array([0, 1, 0, 0], pa.int32()),
    }
    path.mkdir(parents=True, exist_ok=True)
    kept = {name: column for name, column in (columns | changes).items() if column is not None}
    pq.write_table(pa.table(kept), path / "part-0.parquet")
    return path


def _schema(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(SCHEMA | changes))
    return path


def _versions(settings: Settings, name: str) -> list[int]:
    return list(Lake(settings).load(name).version_numbers)


@pytest.mark.long
def test_from_a_synthetic_log_to_a_rolled_back_dataset(run: Run, settings: Settings, name: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"  # absolute: Spark keeps a working directory of its own
    made = run("generate", raw, "--users", 12, "--seed", 5, "--set", "items=500", "--json", "made.json")
    assert made.exit_code == 0, made.output
    rows = json.loads(Path("made.json").read_text())["rows"]["log"]

    written = run(
        "write", raw / "log", "--dataset", name, "--schema", raw / "_schema.yaml", "--run-id", "one", "--json", "w.json"
    )
    assert written.exit_code == 0, written.output
    summary = json.loads(Path("w.json").read_text())
    assert (summary["impressions"], summary["version"], summary["gate"]) == (rows, 1, "passed")

    again = run("write", raw / "log", "--dataset", name, "--run-id", "one", "--json", "again.json")
    assert again.exit_code == 0, again.output
    assert json.loads(Path("again.json").read_text())["already_published"] is True

    replaced = run("write", raw / "log", "--dataset", name, "--mode", "replace", "--run-id", "two")
    assert replaced.exit_code == 0, replaced.output
    assert run("check", "--dataset", name).exit_code == 0

    before = run("versions", "list", "--dataset", name, "--json", "-").stdout
    for words in (("pin", 1, "--label", "first"), ("rollback", 1)):
        planned = run("versions", *words, "--dataset", name, "--dry-run", "--json", "-")
        assert (planned.exit_code, json.loads(planned.stdout)["dataset"]) == (0, name)
    assert json.loads(planned.stdout)["rows"]["impressions"] == rows
    assert run("versions", "list", "--dataset", name, "--json", "-").stdout == before
    pinned = run("versions", "pin", 1, "--dataset", name, "--label", "first", "--json", "-")
    assert json.loads(pinned.stdout)["version"] == 1
    back = run("versions", "rollback", 1, "--dataset", name)
    assert back.exit_code == 0, back.output
    listed = json.loads(run("versions", "list", "--dataset", name, "--json", "-").stdout)
    assert [v["version"] for v in listed] == [3, 2, 1]
    assert listed[-1]["pins"] == ["first"]
    assert json.loads(run("versions", "unpin", "first", "--dataset", name, "--dry-run", "--json", "-").stdout) == {
        "dataset": name,
        "label": "first",
        "versions": [1],
    }
    assert run("versions", "unpin", "first", "--dataset", name).exit_code == 0
    assert run("versions", "unpin", "first", "--dataset", name).exit_code == 2
    assert run("versions", "rollback", 9, "--dataset", name).exit_code == 2
    for more in ((), ("--dry-run",)):
        refused = run("versions", "abandon", "--run-id", "nobody", "--dataset", name, *more)
        assert refused.exit_code == 2, refused.output
        assert "the run nobody has nothing on" in " ".join(refused.output.split())
    assert _versions(settings, name) == [1, 2, 3]

    compared = run("report", "--dataset", name, "--raw", raw / "log", "--json", "report.json")
    assert compared.exit_code == 0, compared.output
    assert "hist_item_ids" in compared.stdout


def test_columns_change_by_option_and_a_published_run_needs_no_spark(
    run: Run, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = _schema(tmp_path / "schema.yaml")
    first = ("write", _log(tmp_path / "one"), "--dataset", name, "--schema", described, "--run-id", "one")
    planned = run(*first, "--dry-run", "--json", "-")
    assert planned.exit_code == 0, planned.output
    summary = json.loads(planned.stdout)
    assert (summary["dry_run"], summary["version"], summary["requests"], summary["impressions"]) == (True, 0, 2, 4)
    assert Lake(settings).find(name) is None
    assert run(*first).exit_code == 0

    later = {"r": pa.array([11, 11, 21, 21], pa.int64()), "age": pa.array([30, 30, 40, 40], pa.int32())}
    second = ("write", _log(tmp_path / "two", y=None, **later), "--dataset", name, "--run-id", "two")
    refused = run(*second)
    assert refused.exit_code == 2
    assert "--fill-columns y" in refused.stderr
    both = (*second, "--fill-columns", "y", "--add-columns", "age")
    planned = run(*both, "--dry-run", "--json", "-")
    assert planned.exit_code == 0, planned.output
    assert (json.loads(planned.stdout)["added_columns"], _versions(settings, name)) == (["age"], [1])
    written = run(*both, "--quiet", "--json", "two.json")
    assert (written.exit_code, written.output) == (0, "")
    assert json.loads(Path("two.json").read_text())["filled_columns"] == ["y"]
    assert Lake(settings).load(name).spec.types["age"] == "int"
    assert "added age; null y" in run("versions", "list", "--dataset", name).stdout

    # What is published is known without Spark, and so is a run that was asked for something else.
    monkeypatch.setattr("dedup_storage.cli.runtime.local_spark", None)
    again = run(*both, "--json", "-")
    assert (again.exit_code, json.loads(again.stdout)["already_published"]) == (0, True)
    other = run(*second, "--fill-columns", "y", "--add-columns", "all")
    assert (other.exit_code, "the add columns differ" in other.stderr) == (2, True)
    assert run(*first, "--mode", "replace").exit_code == 2
    _log(tmp_path / "two", y=None, **later, country=pa.array(["a", "a", "b", "b"]))
    changed = run(*both)
    assert (changed.exit_code, "the log differs" in changed.stderr) == (2, True)


@pytest.mark.long
def test_another_number_of_buckets(run: Run, settings: Settings, name: str, tmp_path: Path) -> None:
    schema = _schema(tmp_path / "schema.yaml")
    done = run("write", _log(tmp_path / "log"), "--dataset", name, "--schema", schema, "--no-gate")
    assert done.exit_code == 0, done.output
    asked = ("rebucket", "--dataset", name, "--buckets", 3, "--run-id", "to-3", "--json", tmp_path / "told.json")
    done = run(*asked, "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"Would rebucket {name}" in done.stdout
    assert _versions(settings, name) == [1]
    for said in (f"Rebucketed {name}", f"Rebucketed {name} before, as version 2"):
        done = run(*asked)
        assert done.exit_code == 0, done.output
        assert said in done.stdout
        assert _versions(settings, name) == [1, 2]
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["version"], told["before"], told["buckets"], told["already_published"]) == (2, 2, 3, True)
    done = run("rebucket", "--dataset", name, "--buckets", 3)
    assert f"{name} has 3 buckets: nothing to do" in done.stdout
    for more in ((), ("--dry-run",)):
        refused = run("versions", "rollback", 1, "--dataset", name, *more)
        _one_readable_message(refused, "changed from 2 to 3 in version 2")
    _one_readable_message(run("rebucket", "--dataset", name, "--buckets", 4, "--run-id", "to-3"), "buckets 3")


def test_inferred_schema_finds_grains_and_sequences(run: Run, tmp_path: Path) -> None:
    log = _log(tmp_path / "log", size=pa.array([[1, 1], [1, 1], [1], [1]], pa.list_(pa.int32())))
    keys = ("--user", "u", "--request", "r", "--item", "i", "--event-time", "t", "--label", "y")
    done = run("infer-schema", log, *keys, "-o", "schema.yaml", "--json", "found.json", "--yes")
    assert done.exit_code == 0, done.output
    found = {c["column"]: c for c in json.loads(Path("found.json").read_text())["columns"]}
    assert (found["hist"]["grain"], found["hist"]["declared"], found["hist"]["requests"]) == ("request", False, 2)
    assert yaml.safe_load(Path("schema.yaml").read_text())["sequences"] == [
        {"column": "hist", "group": "hist"},
        {"column": "size", "group": "hist"},
    ]


# What the wrong logs below break; one dataset is enough for all of them, since they change nothing.
STRICT = {"columns": {"hist": "request"}, "checks": {"i": {"not_null": True}, "y": {"allowed": [0, 1]}}}


@pytest.mark.parametrize(
    ("changes", "status", "needle"),
    [
        ({"r": None}, 2, "the column r is not in"),
        ({"u": pa.array([1.5, 1.5, 2.5, 2.5])}, 2, "u"),
        ({"u": pa.array([1, None, 2, 2], pa.int64())}, 2, "u"),
        ({"i": pa.array([5, 6, 5, None], pa.int64())}, 3, "i"),
        ({"pos": pa.array([0, 0, 0, 1], pa.int32())}, 2, "1 impression has the key of another one in the log"),
        ({"hist": pa.array([[1, 2], [1, 3], [3], [3]], pa.list_(pa.int64()))}, 2, "hist"),
        ({"y": pa.array([0, 1, 0, 9], pa.int32())}, 3, "y"),
    ],
    ids=["no-key", "wrong-type", "null-key", "null-item", "twice-a-key", "inconstant", "not-allowed"],
)
def test_wrong_logs_are_refused_and_change_nothing(
    run: Run, settings: Settings, tmp_path: Path, changes: dict[str, Any], status: int, needle: str
) -> None:
    placed = "pos" in changes
    name = "t_wrong_logs_placed" if placed else "t_wrong_logs"
    described = _schema(tmp_path / "schema.yaml", **({"position": "pos"} if placed else STRICT))
    if Lake(settings).find(name) is None:
        good = {"pos": pa.array([0, 1, 0, 1], pa.int32())} if placed else {}
        first = run("write", _log(tmp_path / "good", **good), "--dataset", name, "--schema", described)
        assert first.exit_code == 0, first.output
    later = pa.array([3, 3, 4, 4], pa.int64())
    bad = {"u": later} | {k: v for k, v in changes.items() if v is not None or k == "r"}
    done = run("write", _log(tmp_path / "bad", **bad), "--dataset", name, "--schema", described)
    assert done.exit_code == status, done.output
    _one_readable_message(done, needle)
    assert _versions(settings, name) == [1]


def test_torn_file_is_named(run: Run, settings: Settings, name: str, tmp_path: Path) -> None:
    described = _schema(tmp_path / "schema.yaml")
    assert run("write", _log(tmp_path / "good"), "--dataset", name, "--schema", described).exit_code == 0
    file = _log(tmp_path / "torn") / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    done = run("write", file.parent, "--dataset", name)
    assert done.exit_code == 2, done.output
    _one_readable_message(done, "part-0.parquet")
    assert _versions(settings, name) == [1]


def test_missing_input_and_missing_dataset(run: Run, name: str, tmp_path: Path) -> None:
    missing = run("write", tmp_path / "none", "--dataset", name, "--schema", _schema(tmp_path / "schema.yaml"))
    assert missing.exit_code == 2
    _one_readable_message(missing, "none")
    unknown = run("write", _log(tmp_path / "log"), "--dataset", name)
    assert unknown.exit_code == 2
    _one_readable_message(unknown, "Give --schema FILE to create it")


def _one_readable_message(done: Result, needle: str) -> None:
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1
    assert needle in messages[0]
    for sign in ("Traceback", "at org.apache", "at java.", "Py4J", "Caused by"):
        assert sign not in done.output
