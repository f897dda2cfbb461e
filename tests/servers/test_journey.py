"""A dataset's journey on every pair of a catalog and a store, killed on the way: in one process, and on a cluster whose
workers see nothing of the driver's folders. What needs no Spark runs every day.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml

from dedup_storage.lake.stores import hadoop_settings
from tests.integration.cluster import standalone
from tests.servers.postgres import Postgres
from tests.servers.processes import HOST, QUICK, Unavailable
from tests.servers.rest import BUCKET, RestCatalog
from tests.servers.rows import DAYS, LISTS, rows_of
from tests.servers.store import LOGS, ObjectStore
from tests.spark.helpers import flat_schema

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()), ("request_id", pa.int64()), ("ts", pa.timestamp("us", "UTC")),
        ("country", pa.string()), ("hist", pa.list_(pa.int64())), ("item", pa.int64()), ("y", pa.int32()),
    ]
)  # fmt: skip


@pytest.fixture(scope="session")
def raw_logs(object_store: ObjectStore) -> None:
    """A folder for each day, and lists of users, in a bucket of their own."""
    files = object_store.files
    files.create_dir(LOGS)
    for day in DAYS:
        columns = zip(*rows_of([day]), strict=True)
        table = pa.table([pa.array(values, f.type) for values, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        # Spark does not read the last day's files: it goes through a folder that driver and executors both reach.
        packed = "brotli" if day == DAYS[-1] else "zstd"
        pq.write_table(table, f"{LOGS}/day-{day}/part-0.parquet", filesystem=files, compression=packed)
    for name, users in LISTS.items():
        with files.open_output_stream(f"{LOGS}/{name}") as stream:
            stream.write("".join(f"{user}\n" for user in users).encode())


@pytest.fixture(params=["local[2]", pytest.param("cluster", marks=pytest.mark.cluster)])
def master(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two threads of the driver, or two workers that find the driver's folders empty; both have run executors then."""
    if request.param != "cluster":
        yield request.param
        return
    place = tmp_path_factory.mktemp("cluster")
    try:
        with standalone(place, hidden=tmp_path) as address:
            yield address
    except Unavailable as reason:
        pytest.skip(f"no Spark cluster can be started here: {reason}")
    for worker in (1, 2):
        assert len(list(place.glob(f"worker-{worker}/app-*"))) == 2, "a part of the journey left a worker alone"


def travel(
    place: Path,
    store: ObjectStore,
    master: str,
    example: str,
    catalog: dict[str, Any],
    warehouse: str,
    *,
    scratch: str | None = None,
    **environ: str,
) -> None:
    """Both parts of the journey by one of the shipped settings files, its addresses changed; the first is killed."""
    settings = yaml.safe_load((ROOT / "conf" / "catalogs" / example).read_text())
    (place / "schema.yaml").write_text(flat_schema().to_yaml())
    (place / "temporary").mkdir()
    own = {"TMPDIR": str(place / "temporary"), "SPARK_LOCAL_DIRS": str(place / "temporary"), "SPARK_LOCAL_IP": HOST}
    spark = {
        "master": master,
        "packages": settings["spark"]["packages"],
        "scratch": scratch,
        "conf": {
            "spark.driver.memory": "1g",
            "spark.driver.extraJavaOptions": QUICK,
            "spark.driver.host": HOST,
            "spark.executor.extraJavaOptions": QUICK,
            "spark.executor.memory": "600m",
            "spark.executor.cores": "1",
            "spark.cores.max": "2",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            # Of the raw logs; a catalog may vend those of its tables.
            **{f"spark.hadoop.{key}": value for key, value in hadoop_settings(store.keys).items()},
        },
    }
    settings |= {"warehouse": warehouse, "spark": spark, "quality": {"docs": str(place / "docs")}}
    given = {**settings["catalog"], **catalog}
    for name, keys in (("settings", {}), ("logs", store.keys)):
        properties = {**settings["catalog"]["properties"], **store.place, **catalog.get("properties", {}), **keys}
        text = yaml.safe_dump({**settings, "catalog": {**given, "properties": properties}})
        (place / f"{name}.yaml").write_text(text)
    for part, status in (("begin", -signal.SIGKILL), ("end", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "tests.servers.journey", str(place / "settings.yaml"), part],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **own, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, (done.stdout + done.stderr)[-6000:]


def left(store: ObjectStore, folder: str) -> list[str]:
    """Files of a folder."""
    found = store.files.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=True))
    return [info.path for info in found if info.is_file]


@pytest.mark.usefixtures("raw_logs")
def test_rest_catalog_that_vends_keys_on_s3(
    rest_catalog: RestCatalog, object_store: ObjectStore, tmp_path: Path, master: str
) -> None:
    """The settings have keys for the raw logs alone: those of the tables come from the catalog."""
    assert object_store.logs is not None
    rest_catalog.requests.clear()
    travel(
        tmp_path,
        object_store.logs,
        master,
        "rest.yaml",
        {"uri": rest_catalog.uri, "properties": rest_catalog.properties},
        rest_catalog.warehouse,
        scratch=f"s3://{LOGS}/scratch",
        DEDUP_STORAGE_CATALOG__CREDENTIAL=rest_catalog.credential,
    )
    assert ("POST", "/v1/namespaces/clicks/tables/requests") in rest_catalog.requests
    assert left(object_store, f"{LOGS}/scratch") + left(object_store, f"{BUCKET}/tables/clicks") == []


@pytest.mark.usefixtures("raw_logs")
def test_postgresql_catalog_on_s3(postgres: Postgres, object_store: ObjectStore, tmp_path: Path, master: str) -> None:
    object_store.files.create_dir("postgres-tables")
    travel(
        tmp_path,
        object_store,
        master,
        "postgresql.yaml",
        {"uri": postgres.uri, "user": postgres.user, "properties": object_store.keys},
        "s3://postgres-tables/warehouse",
        DEDUP_STORAGE_CATALOG__PASSWORD=postgres.password,
    )
    assert left(object_store, "postgres-tables") == []


@pytest.mark.usefixtures("raw_logs")
def test_delta_on_s3(object_store: ObjectStore, tmp_path: Path, master: str) -> None:
    object_store.files.create_dir("delta-tables")
    catalog = {"properties": object_store.keys}
    travel(tmp_path, object_store, master, "delta.yaml", catalog, "s3://delta-tables/warehouse")
    assert left(object_store, "delta-tables") == []
