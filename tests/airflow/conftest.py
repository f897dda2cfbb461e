"""A real Airflow with a home, a database and pools of its own, whose tasks run this checkout by spark-submit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import pytest

from dedup_storage.config import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
# Submits with this checkout; the file `fault`, once, with the crash point in it.
WRAPPER = """#!/bin/sh
export PYTHONPATH="{root}" PYSPARK_PYTHON="{python}" SPARK_CONF_DIR="{home}/conf" SPARK_HOME="{spark}"
if [ -e "{home}/fault" ]; then
    DEDUPSTORAGE_FAULT=$(cat "{home}/fault"); export DEDUPSTORAGE_FAULT; rm "{home}/fault"
fi
exec "{spark}/bin/spark-submit" "$@"
"""


@dataclass(frozen=True)
class Airflow:
    """An installed Airflow.

    Attributes:
        python: Its interpreter.
        home: Its home.
        environ: The environment of its processes.
    """

    python: str
    home: Path
    environ: dict[str, str]

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run ``airflow …``; gives what it printed."""
        done = subprocess.run(
            [self.python, "-m", "airflow", *arguments],
            env=self.environ,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=550,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout[-6000:]
        return done.stdout

    def python_code(self, code: str, *arguments: str) -> str:
        """Run Python code; gives its standard output."""
        command = [self.python, "-c", code, *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=550, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def test_dag(self, job: str, moment: str, *, fails: bool = False, **params: Any) -> list[dict[str, Any]]:
        """``airflow dags test``; gives the task instances of the run: state and number of tries."""
        self.run("dags", "test", f"dedup_storage_{job}", moment, "--conf", json.dumps(params), fails=fails)
        return self.tasks(f"dedup_storage_{job}")[moment[:10]]

    def tasks(self, dag_id: str) -> dict[str, list[dict[str, Any]]]:
        """Logical date -> the tasks of the DAG's run."""
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self.python_code(TASKS, dag_id).splitlines():
            if line.startswith("TASK"):
                task = json.loads(line.removeprefix("TASK"))
                found.setdefault(task["date"], []).append(task)
        return found

    def fail_once(self, point: str) -> None:
        """The next job is killed at this point."""
        (self.home / "fault").write_text(point)

    @contextmanager
    def scheduler(self) -> Iterator[None]:
        """Scheduler, DAG processor, API server, all as processes of ``airflow standalone``."""
        with (self.home / "standalone.log").open("w") as log:
            process = subprocess.Popen(
                [self.python, "-m", "airflow", "standalone"],
                env=self.environ,
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield
        finally:
            # Its session's processes and no others.
            os.killpg(process.pid, 15)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(30)

    def wait(self, dag_id: str, runs: int, seconds: int) -> dict[str, list[dict[str, Any]]]:
        """Wait until so many runs of a DAG have ended well."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.tasks(dag_id)
            if sum(all(t["state"] == "success" for t in tasks) for tasks in found.values()) >= runs:
                return found
            time.sleep(5)
        raise AssertionError(f"{dag_id}: {found}\n{(self.home / 'standalone.log').read_text()[-6000:]}")


TASKS = """
import json, sys
from sqlalchemy import select
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
with create_session() as session:
    for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == sys.argv[1])):
        told = {"id": ti.task_id, "state": str(ti.state) if ti.state else None, "tries": ti.try_number,
                "date": f"{ti.dag_run.logical_date:%Y-%m-%d}"}
        print("TASK" + json.dumps(told))
"""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Airflow:
    """Airflow over the suite's lake; skipped where AIRFLOW_PYTHON does not name its interpreter."""
    python = os.environ.get("AIRFLOW_PYTHON")
    if not python:
        pytest.skip("AIRFLOW_PYTHON does not name the interpreter of an Airflow environment (make test-airflow)")
    home = tmp_path_factory.mktemp("airflow")
    spark = Path(pyspark.__file__).parent
    for folder in ("bin", "conf"):
        (home / folder).mkdir()
    wrapper = home / "bin" / "spark-submit"
    wrapper.write_text(WRAPPER.format(root=ROOT, python=sys.executable, home=home, spark=spark))
    wrapper.chmod(0o755)
    packages = ",".join(load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages)
    (home / "conf" / "spark-defaults.conf").write_text(
        f"spark.jars.packages {packages}\nspark.jars.ivy {Path.home() / '.ivy2'}\nspark.driver.memory 1g\n"
        "spark.sql.shuffle.partitions 1\nspark.ui.enabled false\n"
    )
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SPARK_HOME")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "jobs" / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "1",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": uuid.uuid4().hex * 2,
        # Only what the test asks for is run, no interval of today.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "AIRFLOW_VAR_DEDUP_STORAGE_CONFIG": str(ROOT / "conf" / "local.yaml"),
        "DEDUP_STORAGE_WAREHOUSE": settings.warehouse,
        "DEDUP_STORAGE_SPARK__MASTER": "local[1]",
        # `airflow standalone` starts its parts by the name `airflow`.
        "PATH": f"{home / 'bin'}:{Path(python).parent}:{os.environ['PATH']}",
    }
    made = Airflow(python, home, environ)
    made.run("db", "migrate")
    made.run("pools", "set", "dedup_storage", "4", "jobs that may meet")
    made.run("pools", "set", "dedup_storage_exclusive", "1", "jobs that may not")
    return made
