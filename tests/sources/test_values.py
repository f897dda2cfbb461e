"""Keys, times and values that come in odd forms: exact, or refused with a count; what is not found is counted."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.errors import InputError, QualityGateError, SchemaError, UsageError
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.infer import propose_sequences
from dedup_storage.sources.raw import RawLog
from tests.sources.cases import BASE, Case, moment, put, rows, text

HISTORY = [moment(1, hour) for hour in range(3)]
LISTS = [{"column": "hist", "group": "h"}, {"column": "hist_times", "group": "h", "times": True}]
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def epoch(time: dt.datetime) -> int:
    return int(time.replace(tzinfo=dt.UTC).timestamp())


def log(times: list[Any] | None, kind: pa.DataType | None = None, **more: Any) -> pa.Table:
    """Two requests of one user on the second day, each with the same list of times."""
    made = pa.Table.from_pylist([r | {"hist": [7, 8, 9]} for r in rows(users=(1,), day=2, **more)])
    return made.append_column("hist_times", pa.array([times] * len(made), kind))


def lists_of(**changes: Any) -> dict[str, Any]:
    """The schema of such a log, the list of times described further."""
    return BASE | {"sequences": [LISTS[0], LISTS[1] | changes]}


@pytest.mark.parametrize("unit", [*PER_SECOND, "ISO 8601", "d/M/yyyy H:mm", "seconds as doubles"])
def test_lists_of_times_come_in_any_unit(case: Case, unit: str) -> None:
    told: list[Any] = [epoch(t) * PER_SECOND.get(unit, 1) for t in HISTORY]
    if unit.startswith("ISO"):
        told = [t.isoformat() for t in HISTORY]
    elif unit.startswith("d/"):
        told = [f"{t.day}/{t.month}/{t.year} {t.hour}:{t.minute:02}" for t in HISTORY]
    elif unit.endswith("doubles"):
        told = [float(v) for v in told]
    place = put("log.parquet", log(told))
    stated = {"unit": unit} if unit.startswith("d/") else {}
    raw = RawLog.read(case.spark, place, schema=LogSchema.from_dict(lists_of(**stated)))
    found = raw.frame.selectExpr("transform(hist_times, t -> unix_micros(t)) AS t").distinct().collect()
    assert [row.t for row in found] == [[epoch(t) * 10**6 for t in HISTORY]]
    if unit in PER_SECOND:
        assert raw.schema.sequences[1].unit == unit
        assert f"hist_times was read as {unit} since 1970, UTC" in raw.notes
        unknown = LogSchema.from_dict({k: v for k, v in BASE.items() if k != "sequences"})
        (proposed,) = propose_sequences(RawLog.read(case.spark, place, schema=unknown), ["hist_times"])
        assert (proposed.times, proposed.unit) == (True, unit)


@pytest.mark.parametrize(
    ("times", "kind", "told"),
    [
        ([1.5, 2.5], None, "6 lists of the time column hist_times are no whole numbers"),
        ([math.nan], pa.list_(pa.float64()), "6 lists of the time column hist_times are no whole numbers"),
        ([1, 2], None, "holds numbers of no known unit.*sequences: .{column: hist_times, times: true, unit: s}"),
        ([epoch(HISTORY[0]) * 10**9 + 1], None, "fall between two microseconds.*Round hist_times to whole micro"),
        (["yesterday"], None, "6 lists of the time column hist_times hold texts that are no times"),
        ([epoch(HISTORY[0]) * 10**9 + 1], pa.list_(pa.timestamp("ns")), "the column hist_times.*times to microseconds"),
    ],
)
def test_lists_of_times_that_cannot_be_kept_are_refused(
    case: Case, times: list[Any], kind: pa.DataType | None, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        RawLog.read(case.spark, put("log.parquet", log(times, kind)), schema=LogSchema.from_dict(lists_of()))


def test_options_of_sequences_that_would_be_ignored_are_refused() -> None:
    for changes, told in (
        ({"times": False, "unit": "s"}, "unit needs times: true"),
        ({"longer": "newest"}, "longer: newest needs max_length"),
        ({"longer": "newest", "max_length": 2}, "hist and hist_times run in parallel and are cut differently"),
    ):
        with pytest.raises(SchemaError, match=told):
            LogSchema.from_dict(lists_of(**changes))


@pytest.mark.long
def test_longer_lists_are_cut_to_the_newest_or_refused_with_the_longest(case: Case) -> None:
    place = put("log.parquet", log([epoch(t) for t in HISTORY]))
    cut = BASE | {"sequences": [s | {"max_length": 2, "longer": "newest"} for s in LISTS]}
    ds = case.write("cut", place, cut)
    batch = next(iter(DedupDataset("cut", settings=case.settings, shuffle=False)))
    assert batch["hist"].decode() == [[8, 9], [8, 9]]
    assert batch["hist_times"].decode() == [[epoch(t) * 10**6 for t in HISTORY[1:]]] * 2
    # The next day tells its times as timestamps, and its lists are short or missing.
    more = pa.Table.from_pylist(
        [r | {"hist": [5], "hist_times": [moment(2)]} for r in rows(users=(1,), reqs=1, day=3)]
        + [r | {"hist": None, "hist_times": None} for r in rows(users=(2,), reqs=1, day=3)]
    )
    case.write("cut", put("more.parquet", more), cut)
    assert sorted(map(len, case.logs(ds)["hist"].dropna())) == [1] * 3 + [2] * 6
    code, said = case.cli("estimate", place, "--schema", text("cut.yaml", LogSchema.from_dict(cut).to_yaml()))
    assert code == 0, said
    bounded = BASE | {"sequences": [LISTS[0] | {"max_length": 2}, LISTS[1]]}
    with pytest.raises(
        QualityGateError, match=r"at most 2 elements; the longest has 3, on 2024-06-02 \(2 do not hold\)"
    ):
        case.write("long", place, bounded)


@pytest.mark.long
def test_late_labels_that_are_nan_or_fractions_never_win(case: Case) -> None:
    log = pa.Table.from_pylist(rows(users=(1,)))
    ds = case.write("nan", put("nan.parquet", log.set_column(4, "label", pa.array([0.5] * 6))), gate=False)
    key = {"user_id": [1, 1, 1], "request_id": ["1-1-0", "1-1-0", "none"], "item_id": [10, 10, 10]}
    late = pa.table(key | {"label": [math.nan, 2.0, 3.0], "at": [moment(3), moment(2), moment(2)]})
    summary = ds.merge_labels(case.spark.createDataFrame(late), "label", "at", run_id="late", gate=False)
    assert (summary.input_rows, summary.nan_rows, summary.merged_rows, summary.unknown_rows) == (3, 1, 1, 1)
    assert case.logs(ds).query("request_id == '1-1-0' and item_id == 10").label.tolist() == [2.0]
    # A NaN that came by another way gives way to a label of the same moment.
    ds.backfill(Change(expressions={"label": "double('NaN')"}), Affected(where="item_id = 10"), gate=False)
    again = pa.table({"user_id": [1], "request_id": ["1-1-0"], "item_id": [10], "label": [1.0], "at": [moment(2)]})
    assert ds.merge_labels(case.spark.createDataFrame(again), "label", "at", gate=False).merged_rows == 1
    whole = case.write("whole", put("whole.parquet", rows(users=(1,))), gate=False)
    with pytest.raises(UsageError, match="1 late label has a value that the column label cannot hold"):
        whole.merge_labels(case.spark.createDataFrame(late.slice(1, 1).set_column(3, "label", [[0.7]])), "label", "at")


@pytest.mark.long
def test_what_a_backfill_was_asked_for_and_did_not_find_is_counted(case: Case) -> None:
    ds = case.write("asked", put("asked.parquet", rows(users=(1, 2))), gate=False)
    code, said = case.cli(
        "backfill", "--dataset", "asked", "--sql", "label=label + 5", "--users", text("u.txt", "1\n77\n")
    )
    assert code == 0, said
    assert "users not found" in said
    assert sorted(set(case.logs(ds).query("user_id == 1").label)) == [5, 6]
    keys = {"user_id": [2, 2], "request_id": ["2-1-0", "2-1-9"], "position": [0, 0]}
    given = case.spark.createDataFrame(pa.table(keys | {"label": [9, 9]}))
    done = ds.backfill(Change(rows=given, columns=("label",)), Affected(), gate=False)
    assert (done.replacement_rows, done.replacement_rows_not_found, done.users) == (2, 1, None)
    plan = ds.plan_backfill(Change(expressions={"label": "0"}), Affected(users=[1, "2", 3]))
    assert (plan.users, plan.users_not_found) == (3, 1)
    for users in ([1.0], [True], ["01"], [moment()], [None]):
        with pytest.raises(InputError, match=r"some of the users given are no ids: user_id .* in 1 of 1: number 1"):
            ds.plan_backfill(Change(expressions={"label": "0"}), Affected(users=users))
    code, said = case.cli(
        "backfill", "--dataset", "asked", "--sql", "label=0", "--users", text("bad.txt", "1\n\n2.0\n")
    )
    assert code == 2
    assert "1 of 2: line 3" in " ".join(said.split())
    pd.DataFrame({"id": ["1", "02"]}).to_parquet("table.parquet")
    code, said = case.cli("backfill", "--dataset", "asked", "--sql", "label=0", "--users-table", "./table.parquet")
    assert code == 2
    assert "row 2 of" in " ".join(said.split())
    # A first row that is no header was taken for one, and its user for none.
    code, said = case.cli(
        "backfill", "--dataset", "asked", "--sql", "label=0", "--users-table", text("bare.csv", "1\n2\n")
    )
    assert code == 2
    assert "does not name the column user_id" in " ".join(said.split())
    floats = case.spark.createDataFrame(pa.table({**keys, "user_id": [2.0, 2.0], "label": [1, 1]}))
    with pytest.raises(InputError, match="the column user_id of the replacement rows cannot name keys"):
        ds.backfill(Change(rows=floats, columns=("label",)), Affected())
