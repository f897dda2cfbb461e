"""A Spark cluster of two workers, started on this machine for as long as a test needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

from tests.servers.processes import HOST, QUICK, Unavailable, free_port, running, until

__all__ = ["standalone", "submit"]

ROOT = Path(__file__).resolve().parents[2]
SPARK = Path(pyspark.__file__).parent


@contextmanager
def standalone(place: Path, hidden: Path | None = None) -> Iterator[str]:
    """A master and two workers of one core each; gives the master's address.

    Args:
        place: Folder for their output and for the work of their executors.
        hidden: Folder of this machine that the workers see as an empty one of their own, as if they ran on another
            machine.

    Raises:
        Unavailable: they did not start, or folders cannot be hidden from processes here.
    """
    port, page = free_port(), free_port()
    # Executors inherit it from their worker: the toolkit lies on every machine of a cluster.
    environ = {**os.environ, "SPARK_HOME": str(SPARK), "SPARK_LOCAL_IP": HOST, "PYTHONPATH": str(ROOT)}
    environ |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": QUICK}
    java = [str(SPARK / "bin" / "spark-class")]
    address = f"spark://{HOST}:{port}"
    elsewhere = _elsewhere(hidden) if hidden is not None else []

    def alive() -> int:
        with urllib.request.urlopen(f"http://{HOST}:{page}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])

    with ExitStack() as stack:
        master = [*java, "org.apache.spark.deploy.master.Master", "--host", HOST, "--port", str(port)]
        log = place / "master.log"
        process = stack.enter_context(running([*master, "--webui-port", str(page)], log, env=environ))
        until(lambda: alive() == 0, process, "the master", log)
        for number in (1, 2):
            folder = place / f"worker-{number}"
            folder.mkdir()
            worker = [
                *elsewhere,
                *java,
                "org.apache.spark.deploy.worker.Worker",
                "--host",
                HOST,
                "--cores",
                "1",
                "--memory",
                "700m",
            ]
            more = ["--webui-port", str(free_port()), "--work-dir", str(folder), address]
            log = place / f"worker-{number}.log"
            process = stack.enter_context(running([*worker, *more], log, env=environ))
            until(lambda: alive() == number, process, f"worker {number}", log)  # noqa: B023
        yield address


def _elsewhere(hidden: Path) -> list[str]:
    """The beginning of a command whose process finds a folder empty, whatever others write there.

    Raises:
        Unavailable: this account may not do that.
    """
    prefix = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable("there is no unshare, which hides a folder from a process") from error
    if tried.returncode:
        raise Unavailable(f"no folder can be hidden from a process: {tried.stderr.strip()[-200:]}")
    return prefix


def submit(
    master: str, packages: str, job: str, *arguments: str, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """``spark-submit jobs/JOB.py …`` on a cluster of two executors."""
    conf = {
        "spark.jars.ivy": str(Path.home() / ".ivy2"),
        "spark.driver.memory": "700m",
        "spark.driver.extraJavaOptions": QUICK,
        "spark.executor.extraJavaOptions": QUICK,
        "spark.executor.memory": "600m",
        "spark.executor.cores": "1",
        "spark.cores.max": "2",
        "spark.driver.host": HOST,
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
    }
    settings = [text for key, value in conf.items() for text in ("--conf", f"{key}={value}")]
    return subprocess.run(
        [
            str(SPARK / "bin" / "spark-submit"),
            "--master",
            master,
            *settings,
            "--packages",
            packages,
            str(ROOT / "jobs" / f"{job}.py"),
            *arguments,
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_HOME": str(SPARK),
            "SPARK_LOCAL_IP": HOST,
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
