"""A Spark cluster of two workers and a PostgreSQL server, started on this machine for as long as a test needs them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

__all__ = ["Unavailable", "free_port", "postgres", "standalone", "submit"]

ROOT = Path(__file__).resolve().parents[2]
SPARK = Path(pyspark.__file__).parent
HOST = "127.0.0.1"
# Such processes live for seconds, and most of that is starting up.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


class Unavailable(Exception):
    """What the machine lacks."""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _until(done: Callable[[], bool], process: subprocess.Popen[bytes], what: str, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.3)
    told = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise Unavailable(f"{what} did not start: {' '.join(told)[-500:]}")


@contextmanager
def _running(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def standalone(place: Path) -> Iterator[str]:
    """A master and two workers of one core each; gives the master's address.

    Raises:
        Unavailable: they did not start.
    """
    port, page = free_port(), free_port()
    environ = {**os.environ, "SPARK_HOME": str(SPARK), "SPARK_LOCAL_IP": HOST}
    environ |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": QUICK}
    java = [str(SPARK / "bin" / "spark-class")]
    address = f"spark://{HOST}:{port}"

    def alive() -> int:
        with urllib.request.urlopen(f"http://{HOST}:{page}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])

    with ExitStack() as stack:
        master = [*java, "org.apache.spark.deploy.master.Master", "--host", HOST, "--port", str(port)]
        log = place / "master.log"
        process = stack.enter_context(_running([*master, "--webui-port", str(page)], log, env=environ))
        _until(lambda: alive() == 0, process, "the master", log)
        for number in (1, 2):
            folder = place / f"worker-{number}"
            folder.mkdir()
            worker = [
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
            process = stack.enter_context(_running([*worker, *more], log, env=environ))
            _until(lambda: alive() == number, process, f"worker {number}", log)  # noqa: B023
        yield address


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """A PostgreSQL server with the user ``iceberg``; gives its address.

    Raises:
        Unavailable: it is not installed, or did not start.
    """
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in programs:
        raise Unavailable("initdb and postgres are not on the PATH")
    # The server does not run as root; it may lend the account that its package makes.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    place = Path(tempfile.mkdtemp(prefix="dedup-storage-postgres-"))
    try:
        secret = place / "password"
        secret.write_text(password)
        if user:
            try:
                shutil.chown(place, **user)
                shutil.chown(secret, **user)
            except LookupError as error:
                raise Unavailable("there is no account postgres, and the server does not run as root") from error
        data, port = place / "data", free_port()
        made = subprocess.run(
            [
                str(programs[0]),
                "-D",
                str(data),
                "-U",
                "iceberg",
                "-A",
                "scram-sha-256",
                f"--pwfile={secret}",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=place,
            **user,  # type: ignore[call-overload]
        )
        if made.returncode:
            raise Unavailable(f"initdb failed: {made.stderr.strip()[-300:]}")
        log = place / "server.log"
        command = [str(programs[1]), "-D", str(data), "-p", str(port), "-h", HOST, "-k", str(place), "-c", "fsync=off"]
        with _running(command, log, cwd=place, **user) as process:

            def listening() -> bool:
                with socket.create_connection((HOST, port), timeout=1):
                    return True

            _until(listening, process, "PostgreSQL", log)
            yield f"postgresql://{HOST}:{port}/postgres"
    finally:
        shutil.rmtree(place, ignore_errors=True)


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
