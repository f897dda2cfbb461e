"""The DAGs in a real Airflow, which lives in an environment of its own: AIRFLOW_PYTHON names its interpreter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.airflow.conftest import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PARSE = """
import json, sys
import pendulum
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
found = {}
for dag in bag.dags.values():
    timetable = dag.timetable
    interval = timetable.infer_manual_data_interval(run_after=pendulum.datetime(2024, 3, 1, 12, tz="UTC"))
    found[dag.dag_id] = {
        "interval_seconds": (interval.end - interval.start).total_seconds(),
        "descriptions": {name: dag.params.get_param(name).description for name in dag.params},
        "tasks": [
            {"id": t.task_id, "application": t.application, "arguments": t.application_args, "pool": t.pool,
             "retries": t.retries}
            for t in dag.tasks
        ],
        "max_active_runs": dag.max_active_runs,
    }
print("RESULT" + json.dumps({"errors": dict(bag.import_errors), "dags": found}))
"""


@pytest.fixture(scope="module")
def parsed(airflow: Airflow) -> dict[str, Any]:
    """What Airflow makes of the DAG folder."""
    told = airflow.python_code(PARSE, str(ROOT / "jobs" / "dags"))
    line = next(line for line in told.splitlines() if line.startswith("RESULT"))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return found


def test_every_dag_parses(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    names = ("write", "backfill", "late_labels", "refresh_features", "report", "maintain")
    assert set(parsed["dags"]) == {f"dedup_storage_{name}" for name in names}


def test_tasks_are_scripts_that_exist_with_run_ids_of_the_interval(parsed: dict[str, Any]) -> None:
    for name, dag in parsed["dags"].items():
        assert dag["max_active_runs"] == 1
        for task in dag["tasks"]:
            assert Path(task["application"]).is_file(), task
            assert task["retries"] > 0
            assert task["pool"].startswith("dedup_storage")
            if name != "dedup_storage_report":
                run_id = task["arguments"][task["arguments"].index("--run-id") + 1]
                assert "data_interval_start" in run_id


def test_intervals_are_not_empty_and_parameters_are_described(parsed: dict[str, Any]) -> None:
    hours = {name: dag["interval_seconds"] / 3600 for name, dag in parsed["dags"].items()}
    assert hours["dedup_storage_write"] == 24
    assert hours["dedup_storage_late_labels"] == 1
    assert hours["dedup_storage_maintain"] == 7 * 24
    for dag in parsed["dags"].values():
        assert all(dag["descriptions"].values())
