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

# Arguments as a run without a logical date has them, beside those of the interval that it stands for.
RENDER = """
import json, sys
from types import SimpleNamespace
import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.execution_time import macros
told = {}
for dag in DagBag(sys.argv[1]).dags.values():
    after = pendulum.datetime(2024, 3, 1, 12, tz="UTC")
    interval = dag.timetable.infer_manual_data_interval(run_after=after)
    runs = {
        "none": SimpleNamespace(data_interval_start=None, data_interval_end=None, run_after=after),
        "dated": SimpleNamespace(data_interval_start=interval.start, data_interval_end=interval.end, run_after=after),
    }
    params = {name: dag.params[name] for name in dag.params}
    environment = dag.get_template_env()
    for kind, run in runs.items():
        context = {"dag_run": run, "params": params, "macros": macros}
        made = [environment.from_string(a).render(context) for t in dag.tasks for a in t.application_args]
        told.setdefault(dag.dag_id, {})[kind] = made
print("RESULT" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def parsed(airflow: Airflow) -> dict[str, Any]:
    """What Airflow makes of the DAG folder."""
    told = airflow.python_code(PARSE, str(ROOT / "jobs" / "dags"))
    line = next(line for line in told.splitlines() if line.startswith("RESULT"))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return found


def test_a_run_without_a_logical_date_stands_for_the_last_interval(airflow: Airflow) -> None:
    told = airflow.python_code(RENDER, str(ROOT / "jobs" / "dags"))
    line = next(line for line in told.splitlines() if line.startswith("RESULT"))
    rendered = json.loads(line.removeprefix("RESULT"))
    assert len(rendered) == 6
    for arguments in rendered.values():
        assert arguments["none"] == arguments["dated"]
        assert not any("None" in argument for argument in arguments["none"])
    # The schedule's hour is 02:00, so the run at noon of 1 March stands for the interval that ended that morning.
    assert "write-2024-02-29" in rendered["dedup_storage_write"]["none"]
    assert "late-labels-2024-03-01T10" in rendered["dedup_storage_late_labels"]["none"]


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
                assert "interval(dag_run).start" in run_id


def test_intervals_are_not_empty_and_parameters_are_described(parsed: dict[str, Any]) -> None:
    hours = {name: dag["interval_seconds"] / 3600 for name, dag in parsed["dags"].items()}
    assert hours["dedup_storage_write"] == 24
    assert hours["dedup_storage_late_labels"] == 1
    assert hours["dedup_storage_maintain"] == 7 * 24
    for dag in parsed["dags"].values():
        assert all(dag["descriptions"].values())
