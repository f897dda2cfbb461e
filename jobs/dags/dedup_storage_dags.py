"""Airflow 3 schedules of the jobs: each task is one spark-submit of a script in jobs/.

Copy or link this file into the DAG folder. It reads where things are from Airflow variables, each with a default:

``dedup_storage_jobs``
    Folder of the job scripts; the one above this file.
``dedup_storage_config``
    Settings file given as ``--config``; none: the jobs' own default.
``dedup_storage_dataset``
    Dataset of the scheduled runs; every DAG also has it as a parameter.
``dedup_storage_reports``
    Folder for reports, shared by the workers; ``dedup_storage_reports`` in Airflow's home.

Needed on the workers: a ``spark-submit`` that finds dedup_storage and Iceberg's jars (``spark.jars.packages`` in
spark-defaults.conf, or an image with them). Needed in Airflow: the connection ``spark_default``, and the pools
``dedup_storage`` (some slots: jobs that may meet) and ``dedup_storage_exclusive`` (one slot: erasure and maintenance,
which should not).

Run ids follow from the data interval, so a retry, a cleared task and ``airflow backfill`` do nothing twice. Cron
schedules have empty intervals in Airflow 3; these DAGs say theirs with ``CronDataIntervalTimetable``. A run that was
triggered without a logical date has none: it stands for the last whole interval before it, as the schedule's run did.
The delay before a retry is Airflow's own setting (``core.default_task_retry_delay``), doubled each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param, Variable
from airflow.timetables.base import DataInterval
from airflow.timetables.interval import CronDataIntervalTimetable

JOBS = Variable.get("dedup_storage_jobs", default=str(Path(__file__).resolve().parent.parent))
CONFIG = Variable.get("dedup_storage_config", default="")
DATASET = Variable.get("dedup_storage_dataset", default="clicks")
HOME = Path(os.environ.get("AIRFLOW_HOME", Path.home() / "airflow"))
REPORTS = Variable.get("dedup_storage_reports", default=str(HOME / "dedup_storage_reports"))
START = pendulum.datetime(2024, 1, 1, tz="UTC")
# A schedule's hour lies inside a day, and each interval stands for the days that begin in it: no day belongs to two.
FIRST = "{{ interval(dag_run).start | ds }}"
LAST = "{{ [interval(dag_run).start, interval(dag_run).end - macros.timedelta(days=1)] | max | ds }}"
# A run id stands for its input: what was delivered anew for an interval takes another one.
REVISION = Param(
    "",
    type="string",
    pattern="^[A-Za-z0-9_]*$",
    description="Part of the run id, for an interval that was published and whose input was delivered again.",
)
AGAIN = "{{ '-' ~ params.revision if params.revision else '' }}"
DEFAULTS = {"retries": 3, "retry_exponential_backoff": True}


def interval(start: Any, end: Any, dag_run: Any, dag: Any) -> tuple[Any, Any]:
    """Beginning and end of a run's data interval; of the last whole one before it was asked for, where it has none."""
    if start is not None and end is not None:
        return start, end
    found = dag.timetable.infer_manual_data_interval(run_after=dag_run.run_after)
    return found.start, found.end


def dataset_param() -> Param:
    """The parameter that every DAG has."""
    return Param(DATASET, type="string", pattern="^[A-Za-z0-9_]+$", description="Name of the dataset.")


def submit(task_id: str, job: str, *arguments: str, pool: str = "dedup_storage", **more: Any) -> SparkSubmitOperator:
    """A task that runs one job; nothing secret is among its arguments, which Airflow and Spark log."""
    config = ["--config", CONFIG] if CONFIG else []
    return SparkSubmitOperator(
        task_id=task_id,
        application=f"{JOBS}/{job}.py",
        name=f"{job}-{{{{ params.dataset }}}}-{FIRST}",
        application_args=[*arguments, "--dataset", "{{ params.dataset }}", *config],
        conn_id="spark_default",
        pool=pool,
        **more,
    )


def interval_of(timetable: CronDataIntervalTimetable) -> Callable[[Any], DataInterval]:
    """A macro that gives the data interval of a run; of one without a logical date the last whole one before it."""

    def interval(run: Any) -> DataInterval:
        if run.data_interval_start is not None:
            return DataInterval(run.data_interval_start, run.data_interval_end)
        return timetable.infer_manual_data_interval(run_after=pendulum.instance(run.run_after))

    return interval


def dag(
    dag_id: str,
    cron: str,
    description: str,
    params: dict[str, Param],
    user_defined_macros: dict[str, Any] | None = None,
) -> DAG:
    """A DAG with a true data interval, one run at a time."""
    timetable = CronDataIntervalTimetable(cron, timezone="UTC")
    return DAG(
        dag_id=dag_id,
        description=description,
        doc_md=description,
        schedule=timetable,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        params={"dataset": dataset_param(), **params},
        tags=["dedup_storage"],
        user_defined_macros={"interval": interval_of(timetable), **(user_defined_macros or {})},
    )


with dag(
    "dedup_storage_write",
    "0 2 * * *",
    "Writes one day of the raw log; the day is replaced as a whole, so writing it again changes nothing.",
    {
        "source": Param(
            "/data/raw/{date}",
            type="string",
            description="Path of one day of the raw log; {date} stands for the day, such as 2024-01-31.",
        ),
        "schema": Param("", type="string", description="Schema file; needed until the dataset exists."),
        "revision": REVISION,
    },
) as write:
    submit(
        "write",
        "write",
        "{{ params.source.replace('{date}', interval(dag_run).start | ds) }}",
        "--mode",
        "replace",
        "--run-id",
        f"write-{FIRST}{AGAIN}",
        "{% if params.schema %}--schema={{ params.schema }}{% else %}--gate{% endif %}",
    )

with dag(
    "dedup_storage_backfill",
    "0 4 * * *",
    "Recomputes a column over the event dates of the data interval.",
    {
        "name": Param(
            "scheduled",
            type="string",
            pattern="^[A-Za-z0-9_]+$",
            description="Part of the run ids: another expression over the same interval needs another name.",
        ),
        "set": Param("label=label", type="string", description="COLUMN=SQL expression."),
        "lookback_days": Param(0, type="integer", minimum=0, description="Days before the interval to recompute too."),
    },
) as backfill:
    submit(
        "backfill",
        "backfill",
        "--sql",
        "{{ params.set }}",
        "--from",
        "{{ (interval(dag_run).start - macros.timedelta(days=params.lookback_days)) | ds }}",
        "--to",
        LAST,
        "--run-id",
        f"backfill-{{{{ params.name }}}}-{FIRST}",
    )

with dag(
    "dedup_storage_late_labels",
    "30 * * * *",
    "Merges the labels that arrived in the data interval; the newest by event time wins.",
    {
        "source": Param("/data/labels/{hour}", type="string", description="Path; {hour} stands for 2024-01-31T05."),
        "label": Param("label", type="string", description="The label's column."),
        "time": Param("label_time", type="string", description="The column of the label's event time."),
        "revision": REVISION,
    },
) as late_labels:
    hour = "interval(dag_run).start.strftime('%Y-%m-%dT%H')"
    submit(
        "late_labels",
        "late_labels",
        f"{{{{ params.source.replace('{{hour}}', {hour}) }}}}",
        "--label",
        "{{ params.label }}",
        "--time",
        "{{ params.time }}",
        "--run-id",
        f"late-labels-{{{{ {hour} }}}}{AGAIN}",
    )

with dag(
    "dedup_storage_refresh_features",
    "0 5 * * *",
    "Computes a feature group where its inputs are new or changed.",
    {"group": Param("group", type="string", pattern="^[A-Za-z0-9_]+$", description="Name of the feature group.")},
) as refresh_features:
    submit("refresh", "refresh_features", "{{ params.group }}", "--run-id", f"refresh-{{{{ params.group }}}}-{FIRST}")

with dag(
    "dedup_storage_report",
    "0 6 * * 1",
    "Measures compression; fails when bytes per row have grown beyond the threshold since the last interval's report.",
    {
        "output": Param(REPORTS, type="string", description="Folder of the reports, one JSON file an interval."),
        "threshold": Param(0.05, type="number", minimum=0, description="Growth of bytes per row that fails the task."),
    },
    user_defined_macros={"is_file": os.path.isfile},
) as report:
    reports = "{{ params.output }}/{{ params.dataset }}-"
    last = "{% set last = params.output ~ '/' ~ params.dataset ~ '-' ~ (interval(dag_run).start | ds) ~ '.json' %}"
    submit(
        "report",
        "report",
        "--json",
        f"{reports}{{{{ interval(dag_run).end | ds }}}}.json",
        last + "{% if is_file(last) %}--against={{ last }}{% else %}--baselines{% endif %}",
        "--threshold",
        "{{ params.threshold }}",
        retries=1,
    )

with dag(
    "dedup_storage_maintain",
    "0 3 * * 0",
    "Restores the order of decayed segments, expires versions, removes orphans.",
    {
        "keep_versions": Param(10, type="integer", minimum=1, description="Newest versions that stay."),
        "keep_days": Param(7, type="integer", minimum=0, description="Versions of so many last days stay."),
    },
) as maintain:
    submit(
        "maintain",
        "maintain",
        "--keep-versions",
        "{{ params.keep_versions }}",
        "--keep-days",
        "{{ params.keep_days }}",
        "--run-id",
        f"maintain-{FIRST}",
        pool="dedup_storage_exclusive",
    )
