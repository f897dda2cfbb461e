"""Processes with a Spark session each, on a catalog and an S3 store of this machine; ended by their own ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import yaml

from benchmarks._harness import ROOT
from tests.servers.postgres import postgres
from tests.servers.processes import QUICK
from tests.servers.rest import BUCKET, rest_catalog
from tests.servers.store import ObjectStore, object_store

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dedup_storage import LogSchema

__all__ = [
    "CANDIDATES",
    "FIRST_DAY",
    "NAME",
    "USERS",
    "Place",
    "Worker",
    "keys_of",
    "log_frame",
    "log_schema",
    "placed",
    "tell",
]

NAME, USERS, CANDIDATES = "clicks", 40, 3
# Days since 1970 of 1 January 2024.
FIRST_DAY = 19_723
_POSTGRES_BUCKET = "postgres-catalog"


@dataclass(frozen=True)
class Place:
    """A catalog over a store.

    Attributes:
        config: The settings file; secrets are in ``environ``.
        environ: Environment of processes that use it.
        store: The store.
        bucket: Where tables lie.
    """

    config: Path
    environ: Mapping[str, str]
    store: ObjectStore
    bucket: str


@contextmanager
def placed(catalog: str, memory: str = "800m") -> Iterator[Place]:
    """A catalog (``rest``: Iceberg's own server with OAuth and vended keys; or ``postgresql``) over an S3 store."""
    with TemporaryDirectory(prefix="dedup-storage-fleet-") as folder, object_store() as store:
        example = yaml.safe_load((ROOT / "conf" / "catalogs" / f"{catalog}.yaml").read_text())
        spark = {
            "master": "local[1]",
            "packages": example["spark"]["packages"],
            "conf": {
                "spark.driver.memory": memory,
                "spark.driver.extraJavaOptions": QUICK,
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.sql.shuffle.partitions": "1",
                "spark.scheduler.mode": "FAIR",
            },
        }
        settings = {**example, "spark": spark, "quality": {"docs": f"{folder}/docs"}}
        config = Path(folder) / "settings.yaml"
        if catalog == "rest":
            with rest_catalog(store) as server:
                own = {"uri": server.uri, "properties": {**example["catalog"]["properties"], **server.properties}}
                text = {**settings, "warehouse": server.warehouse, "catalog": {**example["catalog"], **own}}
                config.write_text(yaml.safe_dump(text))
                yield Place(config, {"DEDUP_STORAGE_CATALOG__CREDENTIAL": server.credential}, store, BUCKET)
            return
        with postgres("a password") as database:
            store.files.create_dir(_POSTGRES_BUCKET)
            properties = {**example["catalog"]["properties"], **store.properties}
            own = {"uri": database.uri, "user": database.user, "properties": properties}
            warehouse = f"s3://{_POSTGRES_BUCKET}/warehouse"
            config.write_text(
                yaml.safe_dump({**settings, "warehouse": warehouse, "catalog": {**example["catalog"], **own}})
            )
            yield Place(config, {"DEDUP_STORAGE_CATALOG__PASSWORD": database.password}, store, _POSTGRES_BUCKET)


def tell(**said: Any) -> None:
    """In a worker: say something to who started it, as a line of JSON."""
    print(f"SAID {json.dumps(said)}", flush=True)


@dataclass
class Worker:
    """A process that takes a line of JSON for each job and says lines of JSON.

    Attributes:
        place: Where it works.
        script, role: What it runs: a file of this folder, and its first argument.
        log: Its output is appended there.
    """

    place: Place
    script: str
    role: str
    log: Path
    said: Queue[dict[str, Any]] = field(default_factory=Queue)

    def __post_init__(self) -> None:
        environ = {**os.environ, **self.place.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "benchmarks" / self.script), "--worker", self.role]
        # In a group of its own, so that its Java ends with it.
        self.process = process = subprocess.Popen(
            [*command, str(self.place.config)],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._input = cast("IO[str]", process.stdin)
        threading.Thread(target=self._listen, args=(process.stdout,), daemon=True).start()

    def _listen(self, output: IO[str]) -> None:
        with self.log.open("a") as log:
            for line in output:
                if line.startswith("SAID "):
                    self.said.put(json.loads(line[5:]))
                else:
                    log.write(line)
        self.said.put({"ended": True})

    def ask(self, **job: Any) -> None:
        """Give it a job; one that has ended hears nothing, and says so itself."""
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(job) + "\n")
            self._input.flush()

    def hear(self, timeout: float) -> dict[str, Any] | None:
        """What it says next; ``None`` where it said nothing so long."""
        try:
            return self.said.get(timeout=timeout)
        except Empty:
            return None

    def expect(self, key: str, timeout: float = 300) -> dict[str, Any]:
        """What it says next, which has a key.

        Raises:
            RuntimeError: it says something else, or nothing.
        """
        said = self.hear(timeout)
        if said is None or key not in said:
            raise RuntimeError(f"a process was to say {key} and said {said}; its output is in {self.log}")
        return said

    def kill(self) -> None:
        """End it and its Java at once, as a machine that goes away does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """Let it end by itself; it gets a minute."""
        with suppress(BrokenPipeError):
            self._input.close()
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        self.kill()


def log_schema() -> LogSchema:
    """Of ``log_frame``."""
    from dedup_storage import LogSchema

    return LogSchema.from_dict(
        {
            "user": "user_id",
            "request": "request_id",
            "item": "item",
            "event_time": "ts",
            "labels": ["y", "score"],
            "sequences": [{"column": "hist"}],
            "columns": {"country": "request"},
            "date_grain": "day",
            "buckets": 2,
        }
    )


def log_frame(spark: SparkSession, day: int, first: int, requests: int) -> DataFrame:
    """Requests of one day from a number on, in arrival order, with ``CANDIDATES`` impressions each."""
    seconds = FIRST_DAY * 86_400 + day * 86_400
    return (
        spark.range(0, requests * CANDIDATES, 1, 1)
        .selectExpr(f"{first} + id div {CANDIDATES} AS request_id", f"id % {CANDIDATES} AS place")
        .selectExpr(
            f"request_id % {USERS} AS user_id",
            "request_id",
            f"timestamp_seconds({seconds} + request_id % 80000) AS ts",
            "IF(request_id % 2 = 0, 'SE', 'DK') AS country",
            "IF(request_id % 7 = 0, array(), sequence(1L, request_id % 7)) AS hist",
            "request_id * 31 + place * 7 AS item",
            "CAST(request_id % 2 AS int) AS y",
            "CAST(0 AS int) AS score",
        )
    )


def keys_of(first: int, requests: int) -> np.ndarray[Any, Any]:
    """Request and item of each impression of ``log_frame``, in its order."""
    request = np.repeat(np.arange(first, first + requests), CANDIDATES)
    place = np.tile(np.arange(CANDIDATES), requests)
    return np.stack([request, request * 31 + place * 7], axis=1)
