"""``dedup-storage sample`` on one dataset: every command, and wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner, Result

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def dataset(spark: SparkSession, settings: Settings) -> str:
    """20 users of two requests each."""
    raw = RawLog.from_frame(frame(spark, flat_rows([1, 2], users=20)), flat_schema())
    Dataset.create(spark, settings, "t_sample_command", raw.schema, raw).write(raw, gate=False)
    return "t_sample_command"


@pytest.fixture
def run(dataset: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a sub-command of ``sample`` in the suite's Spark session, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    monkeypatch.setenv("DEDUP_STORAGE_DATASET", dataset)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["sample", *(str(a) for a in arguments)])

    return invoke


@pytest.mark.long
def test_every_command(run: Run, dataset: str) -> None:
    planned = run("create", "half", "--fraction", 0.5, "--seed", 3, "--dry-run", "--json", "planned.json")
    assert "Would make sample half" in planned.stdout
    made = run("create", "half", "--fraction", 0.5, "--seed", 3, "--json", "made.json")
    assert made.exit_code == 0, made.output
    users = json.loads(Path("made.json").read_text())["users"]
    assert json.loads(Path("planned.json").read_text())["users"] == users
    again = run("create", "half", "--fraction", 0.5, "--seed", 3)
    assert "unchanged" in again.stdout

    Path("strata.yaml").write_text("strata: [{name: country, column: country}]\ncaps: {impressions: 2}\nsize: 6\n")
    capped = run("create", "capped", "--definition", "strata.yaml", "--allocation", "equal")
    assert capped.exit_code == 0, capped.output
    crossed = run(
        "create", "crossed", "--stratum", "country", "--stratum", "requests:2",
        "--stratum-fraction", "country=DK,requests=2=0.5", "--stratum-fraction", "*=1",
    )  # fmt: skip
    assert crossed.exit_code == 0, crossed.output

    divided = run("split", "--share", "train=0.8", "--share", "test=0.2", "--json", "-")
    assert sum(s["users"] for s in json.loads(divided.stdout)) == 20

    listed = json.loads(run("list", "--json", "-").stdout)
    assert {"half", "capped", "train", "test"} <= {s["name"] for s in listed}
    described = run("describe", "half")
    assert described.exit_code == 0
    assert "fraction" in described.stdout
    assert json.loads(run("plan", "half", "--json", "-").stdout)["share"] == 1

    report = run("report", "half", "--verify", "--html", "out/half.html", "--json", "report.json")
    assert report.exit_code == 0, report.output
    assert "label rate" in report.stdout
    assert "<svg" in Path("out/half.html").read_text()
    assert json.loads(Path("report.json").read_text())["summary"]["users"] == users

    measured = CliRunner().invoke(
        app, ["report", "--dataset", dataset, "--sample", "half", "--json", "compression.json"]
    )
    assert measured.exit_code == 0, measured.output
    assert json.loads(Path("compression.json").read_text())["sample"]["users"] == users
    refused = CliRunner().invoke(app, ["report", "--dataset", dataset, "--sample", "capped"])
    assert refused.exit_code == 2
    assert "does not stand for all users alike" in refused.output

    written = run("materialise", "capped", "--into", f"{dataset}_capped", "--no-gate")
    assert written.exit_code == 0, written.output
    assert run("refresh", "half").exit_code == 0
    assert "Would drop sample half" in run("drop", "half", "--dry-run").stdout
    assert run("drop", "half").exit_code == 0
    gone = run("describe", "half")
    assert gone.exit_code == 2
    assert "no sample half" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (("create", "x", "--fraction", 1.5), "fraction is 1.5"),
        (("create", "x"), "none of them"),
        (("create", "x y", "--fraction", 1), "'x y'"),
        (("create", "x", "--stratum-fraction", "half"), "LABEL=NUMBER"),
        (("create", "x", "--stratum", "country:many", "--fraction", 1), "COLUMN:PARTS"),
        (("create", "x", "--stratum", "county", "--fraction", 1), "county"),
        (("create", "x", "--definition", "none.yaml"), "none.yaml"),
        (("split", "--share", "a=0.9", "--share", "b=0.9"), "more than all users"),
        (("split", "--dates", "a=yesterday"), "NAME=2024-01-01:2024-01-31"),
        (("plan", "x"), "no sample x"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(run: Run, arguments: tuple[object, ...], needle: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1
    assert needle in messages[0]
    assert "Traceback" not in done.output
