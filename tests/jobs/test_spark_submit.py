"""The same jobs under spark-submit, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from dedup_storage.config import load_settings
from dedup_storage.synth.files import write_log
from dedup_storage.synth.params import SynthParams

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.cluster
def test_write_under_spark_submit(tmp_path: Path) -> None:
    params = SynthParams.preset("small", users=8, items=500)
    made = write_log(params, str(tmp_path / "raw"))
    packages = ",".join(load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "DEDUP_STORAGE_WAREHOUSE": str(tmp_path / "warehouse"),
        "DEDUP_STORAGE_CONFIG": str(ROOT / "conf" / "local.yaml"),
    }

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(environment["SPARK_HOME"]) / "bin" / "spark-submit"), "--master", "local[2]"]
        ivy = ["--conf", f"spark.jars.ivy={Path.home() / '.ivy2'}", "--packages", packages]
        script = str(ROOT / "jobs" / "write.py")
        return subprocess.run(
            [*program, *ivy, script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    summary = tmp_path / "summary.json"
    done = submit(made.tables["log"], "--dataset", "clicks", "--schema", made.schema, "--json", str(summary))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(summary.read_text())["impressions"] == made.rows["log"]
    refused = submit(made.tables["log"], "--dataset", "x; drop table y", "--schema", made.schema)
    assert refused.returncode == 2
    # spark-submit in client mode passes the driver's two streams on as one
    told = refused.stdout + refused.stderr
    assert "error: the dataset name 'x; drop table y' cannot be used" in told
    assert "Traceback" not in told
    assert "Exception in thread" not in told
