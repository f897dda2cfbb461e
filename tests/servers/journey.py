"""What a dataset goes through, in processes of their own on the servers that the settings name.

Arguments: the settings file, beside which ``logs.yaml`` has the keys of the raw logs too, and ``begin`` (a day, and
another whose publication the process does not survive) or ``end`` (all that follows). A process that returns has seen
every row where it should be; what it compares with are plain rows.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dedup_storage import Lake, RawLog, connect
from dedup_storage.cli import app
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.faults import VARIABLE
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.lake.folders import VOCABULARIES, list_files
from tests.servers.rows import CHANGED, DAYS, GONE, plain, rows_of
from tests.servers.store import LOGS
from tests.spark.helpers import flat_schema

NAME = "clicks"


def main() -> None:
    """The journey's beginning or its end."""
    config, part = Path(sys.argv[1]), sys.argv[2]
    with connect(config) as lake:
        lake.spark.sparkContext.setLogLevel("OFF")
        begin(lake) if part == "begin" else end(lake, config.with_name("logs.yaml"))


def log_of(lake: Lake, number: int) -> RawLog:
    """A day's log, from the store."""
    return RawLog.read(lake.spark, f"s3://{LOGS}/day-{number}", schema=flat_schema())


def begin(lake: Lake) -> None:
    """A day, and half a publication."""
    log = log_of(lake, 1)
    ds = lake.create(NAME, log.schema, log)
    ds.write(log, run_id="day-1", gate=False)
    os.environ[VARIABLE] = "publish:after-pick-impressions"
    ds.write(log_of(lake, 2), run_id="day-2", gate=False)


def end(lake: Lake, config: Path) -> None:
    """The run again, another day, a feature group, a backfill, a sample, upkeep, an erasure; and each read again."""
    from torch.utils.data import DataLoader

    from dedup_storage.reader import DedupDataset
    from tests.integration.test_reader_spark import read

    logs(lake, config)
    ds = lake.open(NAME)
    assert ds.write(log_of(lake, 2), run_id="day-2", gate=False).version == 2
    command(config, "write", f"s3://{LOGS}/day-3", "--dataset", NAME, "--run-id", "day-3", "--no-gate")
    assert [(v.version, v.run_id) for v in ds.versions()] == [(1, "day-1"), (2, "day-2"), (3, "day-3")]
    same(ds, plain(DAYS))
    same(ds, plain([1]), version=1)

    ds.features.add("lengths", {"hist_length": "size(hist)"}, run_id="lengths")
    lengths = {(r["request_id"], r["hist_length"]) for r in ds.logs().select("request_id", "hist_length").collect()}
    assert lengths == {(row[1], len(row[4])) for row in rows_of(DAYS)}
    listed = ("--users", f"s3://{LOGS}/changed.txt")
    command(config, "backfill", "--dataset", NAME, "--sql", "y=y + 10", *listed, "--run-id", "fix", "--no-gate")
    changed = plain(DAYS, changed=CHANGED)
    same(ds, changed)
    made = ds.samples.make("half", fraction=0.5, seed=3)
    inside = {row["user_id"] for row in ds.samples.users("half").collect()}
    assert 0 < len(inside) == made.users < 5
    assert read(DedupDataset(NAME, lake.settings, sample="half")) == [row for row in changed if row[0] in inside]

    ds.maintain("tidy", policy=Policy(keep_versions=2, keep_days=0, orphan_days=1))
    same(ds, changed)
    lake.vocabulary(NAME, "country")
    assert len(vocabularies(lake)) == 1
    command(config, "forget-user", "--dataset", NAME, "--users", f"s3://{LOGS}/gone.txt", "--run-id", "forget")
    assert vocabularies(lake) == []
    left = plain(DAYS, changed=CHANGED, gone=[GONE])
    same(ds, left)
    loader = DataLoader(DedupDataset(NAME, lake.settings), batch_size=None, num_workers=2)
    assert read(loader) == left
    assert lake.datasets() == [NAME]
    lake.drop(NAME, force=True)
    assert lake.datasets() == []


def vocabularies(lake: Lake) -> list[str]:
    """Files of stored vocabularies, by the keys that the table has where a catalog vends them."""
    meta = open_lake(lake.settings).load(NAME)
    anchor = meta.spec.anchor.name
    keys = lake.settings.catalog.properties if lake.settings.format == "delta" else meta.anchor.io.properties
    return [file.path for file in list_files(f"{meta.location(anchor)}/{VOCABULARIES}", keys)]


def logs(lake: Lake, config: Path) -> None:
    """What is said of a log before it is written, from the same store by the same settings."""
    place, schema = f"s3://{LOGS}/day-1", str(config.with_name("schema.yaml"))
    inferred = command(config, "infer-schema", place, "--user", "user_id", "--request", "request_id", "--item", "item")
    assert "hist" in inferred
    command(config, "validate", place, "--schema", schema)
    command(config, "estimate", place, "--schema", schema)
    command(config, "report", "--input", place, "--schema", schema, "--no-baselines")


def command(config: Path, *arguments: str) -> str:
    """A command in this process's session."""
    done = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert done.exit_code == 0, f"{arguments[0]}: {done.output}"
    return done.output


def same(ds: Dataset, rows: list[tuple[Any, ...]], version: int | None = None) -> None:
    """Spark and the reader find the plain rows."""
    from dedup_storage.reader import DedupDataset
    from tests.integration.test_reader_spark import ORDER, read

    found = (tuple(row[c] for c in ORDER) for row in ds.logs(version).select(*ORDER).collect())
    assert sorted(found, key=repr) == rows
    assert read(DedupDataset(ds.name, ds.settings, version=version)) == rows


if __name__ == "__main__":
    main()
