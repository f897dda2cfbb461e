"""What the DAGs' templates give, without an Airflow: a run with a data interval, and one without a logical date."""

from __future__ import annotations

import datetime as dt
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import jinja2
import pytest

DAGS = Path(__file__).resolve().parents[2] / "jobs" / "dags" / "dedup_storage_dags.py"
DAY = dt.timedelta(days=1)


class _Dag:
    """Keeps what a DAG was made with, and the tasks that were made inside it."""

    made: ClassVar[list[_Dag]] = []

    def __init__(self, **values: Any) -> None:
        self.values, self.tasks = values, []

    def __enter__(self) -> _Dag:
        _Dag.made.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _last_whole(run_after: dt.datetime) -> SimpleNamespace:
    end = run_after.replace(hour=2, minute=0)
    return SimpleNamespace(start=end - DAY, end=end)


def _task(**values: Any) -> SimpleNamespace:
    task = SimpleNamespace(**values)
    _Dag.made[-1].tasks.append(task)
    return task


@pytest.fixture
def dags(monkeypatch: pytest.MonkeyPatch) -> list[_Dag]:
    """The DAGs of the file, made of stand-ins for Airflow's classes."""
    contents: dict[str, dict[str, Any]] = {
        "pendulum": {"datetime": lambda *parts, tz: dt.datetime(*parts), "instance": lambda moment: moment},
        "airflow": {},
        "airflow.providers.apache.spark.operators.spark_submit": {"SparkSubmitOperator": _task},
        "airflow.sdk": {
            "DAG": _Dag,
            "Param": lambda default, **_: default,
            "Variable": SimpleNamespace(get=lambda name, default: default),
        },
        "airflow.timetables.base": {"DataInterval": lambda start, end: SimpleNamespace(start=start, end=end)},
        "airflow.timetables.interval": {
            "CronDataIntervalTimetable": lambda cron, timezone: SimpleNamespace(infer_manual_data_interval=_last_whole)
        },
    }
    for name, values in contents.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(_Dag, "made", [])
    runpy.run_path(str(DAGS))
    return _Dag.made


def rendered(dag: _Dag, start: dt.datetime | None, end: dt.datetime | None) -> list[list[str]]:
    """Each task's name and arguments as Airflow would render them."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - arguments of commands
    environment.filters["ds"] = lambda moment: None if moment is None else f"{moment:%Y-%m-%d}"
    context = {
        "dag_run": SimpleNamespace(
            run_after=dt.datetime(2024, 6, 3, 15, 30), data_interval_start=start, data_interval_end=end
        ),
        "params": dag.values["params"],
        "macros": SimpleNamespace(timedelta=dt.timedelta),
        **dag.values["user_defined_macros"],
    }
    texts = [[task.name, *task.application_args] for task in dag.tasks]
    return [[environment.from_string(text).render(context) for text in task] for task in texts]


def test_a_run_without_a_logical_date_takes_the_last_whole_interval(dags: list[_Dag]) -> None:
    assert len(dags) == 6
    whole = dt.datetime(2024, 6, 2, 2), dt.datetime(2024, 6, 3, 2)
    for dag in dags:
        without = rendered(dag, None, None)
        assert without == rendered(dag, *whole)
        assert not any("None" in text for task in without for text in task)


def test_run_ids_name_the_interval(dags: list[_Dag]) -> None:
    found = {d.values["dag_id"].removeprefix("dedup_storage_"): rendered(d, *_span())[0] for d in dags}
    ids = {name: task[task.index("--run-id") + 1] for name, task in found.items() if "--run-id" in task}
    assert ids == {
        "write": "write-2024-01-31",
        "backfill": "backfill-scheduled-2024-01-31",
        "late_labels": "late-labels-2024-01-31T02",
        "refresh_features": "refresh-group-2024-01-31",
        "maintain": "maintain-2024-01-31",
    }
    assert found["write"][1] == "/data/raw/2024-01-31"


def _span() -> tuple[dt.datetime, dt.datetime]:
    return dt.datetime(2024, 1, 31, 2), dt.datetime(2024, 2, 1, 2)
