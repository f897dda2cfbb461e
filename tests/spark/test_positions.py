"""Whether users' lists hold what runs name: told by spans, against the lists themselves and plain sets of positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.dataset import positions
from dedup_storage.dataset.positions import broken_lists, has_run, held_spans, position_gaps, spans_run
from dedup_storage.spark.rows import only_row

Run = tuple[int | None, int | None] | None
RUNS = "user string, runs array<struct<start:bigint,length:int>>, words array<string>"
# In this order: whole, gaps at the beginning and inside, one event; then two at one place, none, and one below 0, some
# of them with gaps that make up for it.
LISTS: dict[str, list[int | None]] = {
    "whole": [0, 1, 2, 3, 4], "late": [3, 4, 5], "gap": [0, 1, 4, 5, 6], "one": [0], "far": [7],
    "twice": [0, 1, 1, 2, 3], "made up": [0, 1, 1, 3, 4, 6, 6, 7], "nowhere": [None, 0, 1, 2],
    "lost": [None, 1, 2, 2, 4], "nothing": [None, None], "below": [-1, 0, 1, 3, 4],
}  # fmt: skip


def drawn_lists(rng: np.random.Generator) -> dict[str, list[int | None]]:
    """Some lists with many gaps, and some in which positions are there twice or are nowhere."""
    found: dict[str, list[int | None]] = {}
    for number in range(12):
        found[f"gaps {number}"] = np.flatnonzero(rng.random(14) < rng.uniform(0.3, 0.95)).tolist() or [0]
        found[f"any {number}"] = [None] * int(rng.integers(2)) + rng.integers(0, 9, 8).tolist()
    return found


def all_runs() -> list[Run]:
    """Runs that begin or end before, in, between and behind all of them, of no length or less, and without a part."""
    runs: list[Run] = [(start, length) for start in range(-2, 16) for length in (-1, 0, 1, 2, 3, 5, 8, 15)]
    return [*runs, None, (None, 1), (1, None), (None, None)]


def sound(places: list[int | None]) -> bool:
    return None not in places and len(set(places)) == len(places) and min(p for p in places if p is not None) >= 0


@pytest.fixture(scope="module")
def lists() -> dict[str, list[int | None]]:
    return {**LISTS, **drawn_lists(np.random.default_rng(5))}


@pytest.fixture(scope="module")
def events(spark: SparkSession, lists: dict[str, list[int | None]]) -> DataFrame:
    rows = [(user, place) for user, places in lists.items() for place in places]
    return spark.createDataFrame(rows, "user string, position bigint").coalesce(1)


def by_lists(events: DataFrame, user: str) -> DataFrame:
    """Users with their lists and gaps."""
    listed = F.sort_array(F.collect_list(F.struct("position")))
    return events.groupBy(user).agg(listed.alias("list")).withColumn("gaps", position_gaps(F.col("list"), "position"))


@pytest.mark.long
def test_spans_say_what_lists_say(spark: SparkSession, events: DataFrame, lists: dict[str, list[int | None]]) -> None:
    runs = spark.createDataFrame([(run,) for run in all_runs()], "run struct<start:bigint,length:int>").coalesce(1)
    rows = by_lists(events, "user").withColumn("spans", held_spans(F.col("list"), F.col("gaps"), "position"))
    start, length = F.col("run.start"), F.col("run.length")
    told = {
        "by_spans": spans_run(F.col("spans"), start, length),
        "by_list": has_run(F.col("list"), F.col("gaps"), "position", start, length),
    }
    # What has no length is refused by whoever asks: neither is asked for it.
    asked = F.coalesce(length > 0, F.lit(False)) & (start >= 0)
    found = (
        rows.crossJoin(runs.filter(asked))
        .withColumns(told)
        .select("user", "run", *told, F.size("spans").alias("size"))
        .collect()
    )
    assert len(found) == len(lists) * 16 * 6
    assert [row for row in found if row["by_spans"] != row["by_list"]] == []
    for row in found:
        if sound(lists[row["user"]]):
            first, size = row["run"]
            assert row["by_spans"] == set(range(first, first + size)).issubset(lists[row["user"]]), row
    # Nothing but a gap makes a second span of a list that is whole otherwise.
    sizes = {row["user"]: row["size"] for row in found}
    assert {user: sizes[user] for user in LISTS} == {
        "whole": 1, "late": 1, "gap": 2, "one": 1, "far": 1, "twice": 1, "made up": 3, "nowhere": 0, "lost": 2,
        "nothing": 0, "below": 1,
    }  # fmt: skip


@pytest.mark.long
def test_requests_that_are_counted(
    spark: SparkSession, events: DataFrame, lists: dict[str, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run alone, beside one that is there, and a request without; and no list goes to the requests."""
    shapes = [[run] for run in all_runs()] + [[(0, 1), run] for run in all_runs()]
    made: list[Any] = [(user, runs, None) for user in [*lists, "no events"] for runs in [*shapes, [], None]]
    made += [("whole", [(0, 1)], ["a"]), ("whole", None, ["a"])]
    requests = spark.createDataFrame(made, RUNS).coalesce(1)
    spec: Any = SimpleNamespace(schema_=SimpleNamespace(user="user"))
    group: Any = SimpleNamespace(position_column="position", runs_column="runs", columns=("words",))
    asked: list[DataFrame] = []

    def watched(rows: DataFrame) -> Any:
        asked.append(rows)
        return only_row(rows)

    monkeypatch.setattr(positions, "only_row", watched)
    found = broken_lists(spec, group, events, requests)

    def named(run: Any) -> Any:
        right = F.coalesce((run["start"] >= 0) & (run["length"] > 0), F.lit(False))
        return right & has_run(F.col("list"), F.col("gaps"), "position", run["start"], run["length"])

    astray = F.exists("runs", lambda run: ~named(run)) | (F.col("runs").isNotNull() & F.col("words").isNotNull())
    rows = requests.join(by_lists(events, "user"), "user", "left").agg(F.count_if(astray).alias("n"))
    assert found == (sum(not sound(places) for places in lists.values()), only_row(rows)["n"])

    # Lists are made once for both numbers.
    (counted,) = asked
    node = counted._jdf.queryExecution().optimizedPlan()
    while node.nodeName() != "Join":
        node = node.children().head()
    joined = node.children().apply(1).output()
    assert [joined.apply(i).name() for i in range(joined.size())] == ["user", "_dedup_unsound", "_dedup_held"]
