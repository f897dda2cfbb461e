"""The same backfill on a Spark cluster, over the embedded and over a PostgreSQL catalog, by configuration alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dedup_storage.config import load_settings
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.synth.files import write_log
from dedup_storage.synth.params import SynthParams
from tests.integration.cluster import standalone, submit
from tests.servers.postgres import DRIVER, Postgres, postgres
from tests.servers.processes import Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "only in the @environment:/%40"  # noqa: S105


@pytest.fixture
def standalone_cluster(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a cluster of two workers, and the folder where they keep their work."""
    try:
        with standalone(tmp_path) as address:
            yield address, tmp_path
    except Unavailable as reason:
        pytest.skip(f"no Spark cluster can be started here: {reason}")


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    pytest.importorskip("psycopg2", reason="PyIceberg reaches PostgreSQL by psycopg2")
    try:
        with postgres(PASSWORD) as made:
            yield made
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL server can be started here: {reason}")


def test_on_a_standalone_cluster(standalone_cluster: tuple[str, Path], tmp_path: Path) -> None:
    master, place = standalone_cluster
    write_and_backfill(tmp_path, master, {"name": "lake", "type": "sqlite"}, {})
    # Both workers ran an executor for each of the two jobs.
    assert [len(list(place.glob(f"worker-{number}/app-*/*/"))) for number in (1, 2)] == [2, 2]


def test_over_a_postgresql_catalog(server: Postgres, tmp_path: Path) -> None:
    catalog = {"name": "lake", "type": "jdbc", "uri": server.uri, "user": server.user}
    write_and_backfill(tmp_path, "local[2]", catalog, {"DEDUP_STORAGE_CATALOG__PASSWORD": PASSWORD})
    assert not list(tmp_path.rglob("catalog.db"))


def write_and_backfill(place: Path, master: str, catalog: dict[str, str], secrets: dict[str, str]) -> None:
    """Two jobs by spark-submit; what is stored then, read without Spark, is the plain result."""
    packages = [*load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages, DRIVER]
    config, summary = place / "cluster.yaml", place / "summary.json"
    warehouse = str(place / "warehouse")
    config.write_text(yaml.safe_dump({"warehouse": warehouse, "catalog": catalog, "spark": {"packages": packages}}))
    environ = {"DEDUP_STORAGE_CONFIG": str(config), **secrets}
    made = write_log(SynthParams.preset("small", users=8, items=500), str(place / "raw"))

    def run(job: str, *arguments: str) -> dict[str, Any]:
        end = ("--dataset", "clicks", "--no-gate", "--json", str(summary))
        done = submit(master, ",".join(packages), job, *arguments, *end, environ=environ)
        told = done.stdout + done.stderr
        assert done.returncode == 0, told[-4000:]
        assert PASSWORD not in told
        found: dict[str, Any] = json.loads(summary.read_text())
        return found

    run("write", made.tables["log"], "--schema", made.schema, "--run-id", "day")
    change = ("--set", "label=label + 10", "--where", "user_id % 2 = 0", "--strategy", "merge-on-read")
    done = run("backfill", *change, "--run-id", "fix")
    assert (done["version"], done["table"], done["sequence_bytes_written"]) == (2, "impressions", 0)

    key = ("user_id", "request_id", "item_id")
    raw = pq.read_table(made.tables["log"], columns=[*key, "label"]).to_pylist()
    expected = {tuple(r[k] for k in key): _changed(r["user_id"], r["label"]) for r in raw}
    meta = Lake(load_settings(config, secrets)).load("clicks")
    snapshot_id = meta.snapshots(2)["impressions"]
    rows = meta.tables["impressions"].scan(snapshot_id=snapshot_id, selected_fields=(*key, "label")).to_arrow()
    assert rows.num_rows == len(expected) == made.rows["log"]
    assert {tuple(r[k] for k in key): r["label"] for r in rows.to_pylist()} == expected


def _changed(user: int, label: int | None) -> int | None:
    return label + 10 if label is not None and user % 2 == 0 else label
