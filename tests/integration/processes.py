"""Processes of their own on the suite's lake: killed at a point, or many at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import Settings, load_settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.faults import VARIABLE
from dedup_storage.lake.session import get_spark
from tests.classes import java_options, keep_classes
from tests.small_queries import SMALL_QUERIES

ROOT = Path(__file__).resolve().parents[2]
# Most of such a process is starting up, which the JVM's first compiler does fastest; and garbage is collected whenever
# the classes that are loaded reach a size, which is small by default.
_STARTING = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:MetaspaceSize=256m"


def start(
    settings: Settings, module: str, *arguments: str, fault: str = "", memory: str = "1g", stdin: int | None = None
) -> subprocess.Popen[str]:
    """Start a module of this folder on the suite's lake; ``fault`` names the point at which the process is killed."""
    if (spark := SparkSession.getActiveSession()) is not None:
        keep_classes(spark)
    environ = {
        **os.environ,
        "DEDUP_STORAGE_WAREHOUSE": settings.warehouse,
        "DEDUP_STORAGE_FORMAT": settings.format,
        "DEDUP_STORAGE_SPARK__PACKAGES": json.dumps(settings.spark.packages),
        "DEDUP_STORAGE_SPARK__MASTER": "local[1]",
        "DEDUP_STORAGE_SPARK__CONF": json.dumps(
            {
                **SMALL_QUERIES,
                "spark.sql.shuffle.partitions": "1",
                "spark.ui.enabled": "false",
                "spark.driver.memory": memory,
                "spark.ui.showConsoleProgress": "false",
                "spark.driver.extraJavaOptions": f"{_STARTING} {java_options()}",
            }
        ),
        VARIABLE: fault,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", f"tests.integration.{module}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill(ds: Dataset, job: str, point: str) -> None:
    """Do one of the jobs to a dataset in a process that dies at a point, as it must."""
    process = start(ds.settings, "crash_process", "--dataset", ds.name, "--job", job, fault=point)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, output[-3000:]


def embedded_settings(environ: Mapping[str, str]) -> Settings:
    """In such a process: the suite's lake."""
    return load_settings(ROOT / "conf" / "local.yaml", environ)


def opened(name: str, app: str) -> Dataset:
    """In such a process: a dataset of the suite's lake, in a session of its own."""
    settings = embedded_settings(os.environ)
    return Dataset.open(get_spark(settings, app), settings, name)
