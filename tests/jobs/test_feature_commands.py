"""The jobs on feature groups from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner, Result

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame


@pytest.mark.long
def test_a_group_from_the_command_line(
    spark: SparkSession, settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    monkeypatch.setenv("DEDUP_STORAGE_DATASET", name)

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    def told(*arguments: Any) -> Any:
        done = run(*arguments, "--json", "-")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    age = ("add-features", "age", "--sql", "length=size(hist)", "--sql", "dk = country = 'DK'", "--run-id", "one")
    dry = told(*age, "--dry-run")
    assert (dry["dry_run"], dry["version"], dry["columns"], dry["rows"]) == (True, 1, ["length", "dk"], 5)
    assert "Would add age" in run(*age, "--dry-run").stdout
    added = told(*age)
    assert (added["version"], added["columns"], added["gate"]) == (2, ["length", "dk"], "passed")
    assert told(*age)["already_published"]
    told(
        "add-features", "seen", "--expression", "seen=array_contains(hist, item)", "--grain", "impression", "--no-gate"
    )
    assert [g["name"] for g in told("features", "list")] == ["age", "seen"]
    assert "array_contains(hist, item)" in run("features", "list").stdout.replace("\n", "")

    frame(spark, flat_rows([2], first_request=100)).write.parquet(str(tmp_path / "day"))
    written = told("write", tmp_path / "day", "--no-gate")
    assert written["hints"] == [
        "feature groups out of date now: age, seen; bring them up to date with: "
        f"dedup-storage features refresh NAME --dataset {name}"
    ]
    listed = [line.split() for line in run("features", "list").stdout.splitlines()]
    assert [row[0] for row in listed if "yes" in row] == ["age", "seen"]
    described = told("features", "describe", "age")
    assert described["source"]["expressions"]["dk"] == "country = 'DK'"
    assert described["run_id"] == "one"
    assert {cell[0] for cell in described["out_of_date"]} == {"2024-01-02"}
    assert told("refresh-features", "age", "--no-gate", "--dry-run")["rows"] == 5
    assert told("refresh-features", "age", "--no-gate")["rows"] == 5
    assert told("refresh-features", "age")["up_to_date"]
    assert told("features", "describe", "age")["out_of_date"] == []
    for more in (("--dry-run",), ()):
        assert told("features", "rename", "age", "lengths", *more)["dry_run"] is bool(more)
    for more in (("--dry-run",), ()):
        assert told("promote-features", "lengths", *more)["columns"] == ["length", "dk"]
    assert "Would drop seen" in run("drop-features", "seen", "--dry-run").stdout
    assert told("drop-features", "seen")["job"] == "drop-features"
    assert ds.logs().columns[-2:] == ["length", "dk"]

    before = [v.version for v in ds.versions()]
    for arguments in (
        ("add-features", "x"),
        ("add-features", "x", "--sql", "length"),
        ("add-features", "x", "--sql", "length=1"),
        ("add-features", "x", "--sql", "a=1", "--function", "os:getcwd"),
        ("add-features", "x", "--function", "os.getcwd"),
        ("add-features", "x", "--function", "no_module_of_this_name:f"),
        ("add-features", "x", "--join", "items", "--on", "item=i", "--column", "price=price"),
        ("add-features", "x", "--sql", "a=1", "--lookback", "week"),
        ("refresh-features", "nothing"),
        ("drop-features", "nothing"),
        ("features", "describe", "nothing"),
        ("features", "bundle", "both", "--groups", "lengths,nothing", "--dry-run"),
        ("features", "bundle", "both", "--groups", "lengths"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
    assert run("add-features", "x", "--sql", "a=if(user_id = 1, null, 1)", "--not-null", "a").exit_code == 3
    assert [v.version for v in ds.versions()] == before
