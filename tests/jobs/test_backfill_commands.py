"""Backfill, late labels, maintenance and erasure from the command line; wrong input leaves the dataset as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from typer.testing import CliRunner, Result

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.upkeep.forget_summary import content_digest
from dedup_storage.lake.iceberg.metadata import Lake

SCHEMA = {
    "user": "u", "request": "r", "item": "i", "event_time": "t", "labels": ["y"], "columns": {"hist": "request"},
    "date_grain": "none", "buckets": 2,
}  # fmt: skip
Run = Callable[..., Result]


@pytest.fixture
def run(spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in the suite's Spark session, in an empty folder, on a dataset of four impressions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    moments = pa.array([1_000_000, 1_000_000, 2_000_000, 2_000_000], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "u": pa.array([1, 1, 2, 2], pa.int64()),
        "r": pa.array([10, 10, 20, 20], pa.int64()),
        "i": pa.array([5, 6, 5, 7], pa.int64()),
        "t": moments,
        "hist": pa.array([[1, 2], [1, 2], [3], [3]], pa.list_(pa.int64())),
        "y": pa.array([0, 1, 0, 0], pa.int32()),
    }
    Path("raw").mkdir()
    pq.write_table(pa.table(columns), "raw/part-0.parquet")
    late = {"u": columns["u"][:3], "r": columns["r"][:3], "i": pa.array([5, 99, 5]), "y": columns["y"][:3]}
    pq.write_table(pa.table({**late, "at": moments[:3]}), "late.parquet")
    Path("schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    Path("users.txt").write_text("2\n\n")

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


@pytest.mark.slow
def test_backfill_late_labels_maintain_forget(run: Run, settings: Settings, name: str, tmp_path: Path) -> None:
    made = run("write", tmp_path / "raw", "--dataset", name, "--schema", "schema.yaml", "--run-id", "one", "--no-gate")
    assert made.exit_code == 0, made.output
    here = ("--dataset", name)
    planned = run("backfill", *here, "--set", "y=y+1", "--users", "users.txt", "--dry-run", "--json", "plan.json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(Path("plan.json").read_text())
    assert (plan["table"], plan["affected_rows"], len(plan["segments"])) == ("impressions", 2, 1)

    for arguments, told in (
        (("--set", "y=y+1"), "does not name the rows to recompute"),
        (("--set", "y"), "COLUMN=EXPRESSION"),
        (("--set", "z=1", "--all"), "has the column z"),
        (("--set", "y=1", "--users", "nobody.txt"), "cannot be read"),
        (("--set", "y=1", "--users-table", "late.parquet", "--where", "nothing = 1"), "nothing"),
        (("--set", "y=1", "--sample", "tenth"), "has no sample tenth"),
        (("--set", "y=1", "--sample", "tenth", "--users", "users.txt"), "users are named twice"),
        (("--set", "y=1", "--from", "2024-02-30x"), "event date is not valid"),
        (("--set", "y=1", "--from", "2024-02-02", "--to", "2024-02-01"), "comes before the first"),
        (("--function", "nothing:at_all", "--column", "y", "--all"), "cannot be loaded"),
        (("--set", "y=assert_true(u = 1)", "--all", "--no-gate"), "error"),
    ):
        refused = run("backfill", *here, *arguments)
        assert refused.exit_code == 2, (arguments, refused.output)
        assert told in refused.output
        assert "Traceback" not in refused.output
    assert Lake(settings).load(name).version_numbers == [1]

    done = run("backfill", *here, "--set", "y=y+1", "--users", "users.txt", "--run-id", "b", "--no-gate")
    assert done.exit_code == 0, done.output
    assert "planned" in done.output
    asked = (tmp_path / "late.parquet", *here, "--label", "y", "--time", "at", "--no-gate")
    planned = run("late-labels", *asked, "--dry-run", "--json", "p.json")
    assert planned.exit_code == 0, planned.output
    late = run(
        "late-labels", tmp_path / "late.parquet", *here, "--label", "y", "--time", "at", "--no-gate", "--json", "l.json"
    )
    assert late.exit_code == 0, late.output
    counts = json.loads(Path("l.json").read_text())
    assert (counts["merged_rows"], counts["unknown_rows"]) == (2, 1)
    plan = json.loads(Path("p.json").read_text())
    assert {**plan, "backfill": None} == {**counts, "backfill": None}
    assert plan["backfill"]["affected_rows"] == 2
    kept = run("maintain", *here, "--dry-run", "--only", "compact", "--json", "m.json")
    assert kept.exit_code == 0, kept.output
    assert json.loads(Path("m.json").read_text())["dry_run"] is True
    gone = run("forget-user", *here, "--users", "users.txt", "--json", "f.json")
    assert gone.exit_code == 0, gone.output
    receipt = json.loads(Path("f.json").read_text())
    assert (receipt["clean"], receipt["digest"]) == (True, content_digest(receipt))
    proof = run("forget-user", *here, "--users", "users.txt", "--verify", "f.json")
    assert proof.exit_code == 0, proof.output
    assert run("forget-user", *here, "--users", "users.txt", "--verify", "f.json", "--dry-run").exit_code == 2
    Path("f.json").write_text(json.dumps({**receipt, "users": 9}))
    changed = run("forget-user", *here, "--users", "users.txt", "--verify", "f.json")
    assert changed.exit_code == 2
    assert "f.json was changed since the erasure wrote it" in changed.output
    assert run("forget-user", *here).exit_code == 2
    assert Lake(settings).load(name).version_numbers == [1, 2, 3, 4]
