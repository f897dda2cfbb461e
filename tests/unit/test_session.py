"""What a new Spark session is started with. No Java is started."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext

from dedup_storage.config import FORMATS, Settings
from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine.sessions import SCRATCH, launch_java
from dedup_storage.lake.rooms import room_part
from dedup_storage.lake.session import session_conf

ICEBERG = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
READ_AT_ONCE = "spark.sql.parquet.columnarReaderBatchSize"
CODE_KEPT = "spark.sql.codegen.cache.maxEntries"
CATALOG = {
    "type": "jdbc",
    "uri": "postgresql://db/iceberg",
    "user": "me",
    "password": "hunter2",
    "properties": {"s3.secret-access-key": "hunter3", "s3.region": "eu-north-1", "header.Authorization": "hunter4"},
}


def conf_of(submitted: Mapping[str, str] | None = None, **spark: Any) -> dict[str, str]:
    """The settings of a session on a PostgreSQL catalog."""
    settings = Settings.model_validate({"warehouse": "s3://logs/lake", "catalog": CATALOG, "spark": spark})
    needs = [room_part(name, "session").session_needs(settings) for name in FORMATS]
    return session_conf(settings, needs, submitted or {})


def test_no_secret_is_on_javas_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody on a machine sees the command lines of its processes, and PySpark puts every setting there."""
    started: list[dict[str, str]] = []
    monkeypatch.setattr(SparkContext, "_ensure_initialized", lambda conf: started.append(dict(conf.getAll())))
    keystore = {"spark.ssl.keyPassword": "needed-to-start"}
    conf = conf_of(conf={"spark.hadoop.fs.azure.account.key.a": "hunter5", **keystore}, packages=["a:b:1"])
    launch_java(conf)
    assert "hunter" in str(conf)
    assert "hunter" not in str(started)
    withheld = {key: value for key, value in conf.items() if key not in started[0]}
    assert {f"hunter{n}" for n in range(2, 6)} <= set(withheld.values())
    assert all(value.startswith("hunter") for value in withheld.values())


def test_packages_are_fetched_by_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a new machine two jobs that began together ended both: each found the other's half of a jar."""
    free: list[tuple[bool, bool]] = []

    def start(conf: object) -> None:
        found = []
        for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            with (tmp_path / "dedup-storage" / "lock").open("rb") as other:
                try:
                    fcntl.flock(other, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(False)
                else:
                    found.append(True)
        free.append((found[0], found[1]))
        if len(free) == 1:
            raise RuntimeError("a download failed")

    monkeypatch.setattr(SparkContext, "_ensure_initialized", start)
    conf = conf_of(packages=["a:b:1"], conf={"spark.jars.ivy": str(tmp_path)})
    with pytest.raises(RuntimeError, match="a download failed"):
        launch_java(conf)
    launch_java(conf)
    launch_java(conf)
    launch_java({**conf, "spark.jars.packages": "a:b:2"})
    # What was fetched once is read by many at a time; what was not, or failed, is fetched by one.
    assert free == [(False, False), (False, False), (True, False), (False, False)]


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[object] = []
    monkeypatch.setattr(SparkContext, "_ensure_initialized", lambda conf: started.append(conf))
    (tmp_path / "file").write_text("")
    launch_java(conf_of(packages=["a:b:1"], conf={"spark.jars.ivy": str(tmp_path / "file")}))
    launch_java(conf_of())
    assert len(started) == 2


def test_the_folder_for_passing_rows_is_known_to_the_session() -> None:
    assert conf_of()[SCRATCH] == "s3://logs/lake/_scratch"
    assert conf_of(scratch="s3://other/rows/")[SCRATCH] == "s3://other/rows"
    # The name of a REST catalog's warehouse tells of no folder.
    rest = Settings.model_validate({"warehouse": "logs", "catalog": {"type": "rest", "uri": "http://catalog"}})
    assert SCRATCH not in session_conf(rest, [], {})


@pytest.mark.parametrize(
    ("submitted", "settings", "rows"),
    [({}, {}, "512"), ({READ_AT_ONCE: "64"}, {}, "64"), ({READ_AT_ONCE: "64"}, {READ_AT_ONCE: "4096"}, "4096")],
)
def test_few_rows_of_long_lists_are_read_at_once(
    submitted: dict[str, str], settings: dict[str, str], rows: str
) -> None:
    """4096 rows of three lists of 16,384 elements are 1.3 GB; whoever knows the lists may say another number."""
    assert conf_of(submitted, conf=settings)[READ_AT_ONCE] == rows


def test_code_of_several_writes_is_kept_unless_the_user_says_otherwise() -> None:
    """With Spark's own 100, writes into two datasets in turn compiled most of their queries anew."""
    assert int(conf_of()[CODE_KEPT]) > 100
    assert conf_of({CODE_KEPT: "50"})[CODE_KEPT] == "50"
    assert conf_of({CODE_KEPT: "50"}, conf={CODE_KEPT: "60"})[CODE_KEPT] == "60"


def test_lists_of_the_user_are_kept_beside_those_that_are_needed() -> None:
    """Extensions of the user took the place of Iceberg's, and packages under ``spark.conf`` counted for nothing."""
    own = {
        "spark.sql.extensions": "their.Own",
        "spark.jars.packages": "c:d:2,a:b:1",
        "spark.redaction.regex": "(?i)pin",
    }
    conf = conf_of({"spark.sql.extensions": "the.Platforms"}, conf=own, packages=["a:b:1"])
    assert conf["spark.sql.extensions"] == f"{ICEBERG},their.Own,the.Platforms"
    assert conf["spark.jars.packages"].split(",")[:2] == ["a:b:1", "c:d:2"]
    assert conf["spark.redaction.regex"].endswith("|(?i)pin")


@pytest.mark.parametrize(
    ("submitted", "settings", "master"),
    [
        ({"spark.master": "yarn"}, "local[*]", "yarn"),
        ({"spark.master": "local[*]"}, "spark://m:7077", "spark://m:7077"),
        ({}, "local[2]", "local[2]"),
        ({"spark.master": "k8s://api"}, None, "k8s://api"),
    ],
)
def test_the_master_that_spark_submit_names_wins(submitted: dict[str, str], settings: str | None, master: str) -> None:
    """The job ran on the driver's machine alone, by the ``local[*]`` of the default settings."""
    assert conf_of(submitted, master=settings)["spark.master"] == master


@pytest.mark.parametrize("key", ["uri", "warehouse", "type"])
def test_another_catalog_under_the_same_name_is_refused(key: str) -> None:
    other = {f"spark.sql.catalog.lake.{key}": "hunter2"}
    for told in ({"submitted": other}, {"conf": other}):
        with pytest.raises(ConfigError, match=f"another value of spark.sql.catalog.lake.{key}") as caught:
            conf_of(**told)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
