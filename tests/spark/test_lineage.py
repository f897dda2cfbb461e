"""What each verb tells a receiver: versions read and published, tables, columns; no user id and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import LineageSettings, Settings
from dedup_storage.dataset.adopt import adopt
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features.recipe import Lookup
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.told import written_before
from dedup_storage.errors import DuplicateRowsError
from dedup_storage.lake.engine.plans import read_columns
from dedup_storage.schema import Grain
from dedup_storage.sources.raw import RawLog
from tests.receiver import Receiver, settled
from tests.spark.helpers import WHOLE, day, flat_rows, flat_schema, frame

# The greatest user of the logs here, which no other number looks like.
USER = 7_654_321
SECRET = "k3y-that-nobody-may-see"  # noqa: S105
PUBLISHED, READ = "versionPublished", "versionRead"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed (extra lineage)")
    with Receiver() as running:
        yield running


@pytest.fixture
def told_settings(settings: Settings, receiver: Receiver) -> Settings:
    transport = {**receiver.transport, "auth": {"type": "api_key", "apiKey": SECRET}}
    return settings.model_copy(update={"lineage": LineageSettings(transport=transport, namespace="shop")})


def log(spark: SparkSession, folder: Path, days: list[int], first_request: int = 0) -> RawLog:
    """A log in files, of a few users, the last of whom is ``USER``."""
    rows = [(USER if r[0] == 4 else r[0], *r[1:]) for r in flat_rows(days, first_request=first_request)]
    place = str(folder / f"log-{first_request}")
    frame(spark, rows).coalesce(1).write.parquet(place)
    return RawLog.read(spark, place, schema=flat_schema())


def tables(told: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Last parts of the names of inputs or outputs, with their versions."""
    versions = (t["facets"].get("version", {}).get("datasetVersion") for t in told)
    return sorted(zip((t["name"].rpartition("/")[2] for t in told), versions, strict=True))


def own(event: dict[str, Any]) -> dict[str, Any]:
    """The toolkit's own facet of an event."""
    return {k: v for k, v in event["run"]["facets"]["dedupStorage_run"].items() if k[0] != "_"}


def columns(event: dict[str, Any], table: str) -> dict[str, list[tuple[str, str, str, str]]]:
    """Column lineage of an output: column -> table, column, type and subtype of each input."""
    (output,) = (o for o in event["outputs"] if o["name"].endswith(f"/{table}"))
    found = {}
    for column, fields in output["facets"]["columnLineage"]["fields"].items():
        found[column] = []
        for field in fields["inputFields"]:
            (how,) = field["transformations"]
            found[column].append((field["name"].rpartition("/")[2], field["field"], how["type"], how["subtype"]))
    return found


def rows_written(event: dict[str, Any]) -> dict[str, int]:
    """Rows that each output got."""
    return {o["name"].rpartition("/")[2]: o["outputFacets"]["outputStatistics"]["rowCount"] for o in event["outputs"]}


def ages(requests: DataFrame) -> DataFrame:
    """A feature that is a function."""
    return requests.select("user_id", "request_id", F.length("country").alias("age"))


@pytest.mark.long
def test_writes_and_features(
    spark: SparkSession, told_settings: Settings, receiver: Receiver, name: str, tmp_path: Path
) -> None:
    raw = log(spark, tmp_path, [1])
    ds = Dataset.create(spark, told_settings, name, raw.schema, raw)
    ds.write(raw, run_id="day-1")

    start, done = receiver.events
    assert [(e["eventType"], e["job"]["namespace"], e["job"]["name"]) for e in receiver.events] == [
        ("START", "shop", f"{name}.write"),
        ("COMPLETE", "shop", f"{name}.write"),
    ]
    place = {"namespace": "file", "name": str(tmp_path / "log-0")}
    assert [{k: i[k] for k in place} for e in (start, done) for i in e["inputs"]] == [place, place]
    assert own(done) == {"runId": "day-1", PUBLISHED: 1}
    assert tables(done["outputs"]) == [("impressions", "1"), ("requests", "1")]
    by_name = {o["name"].rpartition("/")[2]: o for o in done["outputs"]}
    assert rows_written(done) == {"requests": 5, "impressions": 15}
    types = {f["name"]: f["type"] for f in by_name["requests"]["facets"]["schema"]["fields"]}
    assert types == {
        "user_id": "bigint", "request_id": "bigint", "event_date": "date", "ts": "timestamp", "country": "string",
        "hist": "array<bigint>",
    }  # fmt: skip
    (symlink,) = by_name["requests"]["facets"]["symlinks"]["identifiers"]
    assert (symlink["name"], symlink["namespace"]) == (f"{name}.requests", f"file:{told_settings.warehouse}")
    assert by_name["requests"]["name"] == ds.metadata().location("requests").removeprefix("file:")

    # What the command line does before Spark starts where a version holds the run.
    held = WriteSummary(dataset=name, run_id="day-1", version=1, already_published=True)
    assert written_before(told_settings, ds.metadata(), held, raw.origins) is held
    again = receiver.events[-1]
    assert (again["eventType"], own(again)) == (
        "COMPLETE",
        {"runId": "day-1", PUBLISHED: 1, "alreadyPublished": True},
    )
    assert again["outputs"] == []

    with pytest.raises(DuplicateRowsError):
        ds.write(raw, run_id="again")
    assert receiver.states() == ["START", "COMPLETE", "START", "COMPLETE", "START", "FAIL"]
    assert receiver.events[-1]["run"]["facets"]["errorMessage"]["message"] == "DuplicateRowsError"

    ds.features.add(
        "len", {"length": "size(transform(hist, item -> item + request_id))", "land": "country"}, gate=False
    )
    done = receiver.last(f"{name}.add-features.len")
    assert (done["eventType"], own(done)[READ], own(done)[PUBLISHED]) == ("COMPLETE", 1, 2)
    assert tables(done["inputs"]) == [("requests", "1")]
    assert tables(done["outputs"]) == [("fg_len", "2")]
    assert columns(done, "fg_len") == {
        "length": [("requests", c, "DIRECT", "TRANSFORMATION") for c in ("hist", "request_id")],
        "land": [("requests", "country", "DIRECT", "IDENTITY")],
    }

    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {told_settings.catalog.name}.ref_{name}")
    lookup = f"ref_{name}.lands"
    spark.createDataFrame([("DK", 1), ("SE", 2)], "code string, n int").writeTo(
        f"{told_settings.catalog.name}.{lookup}"
    ).create()
    ds.features.add("nr", Lookup(lookup, {"country": "code"}, {"n": "n"}), gate=False)
    done = receiver.last(f"{name}.add-features.nr")
    assert [n for n, _ in tables(done["inputs"])] == [lookup, "requests"]
    assert columns(done, "fg_nr") == {
        "n": [
            (lookup, "n", "DIRECT", "IDENTITY"),
            ("requests", "country", "INDIRECT", "JOIN"),
            (lookup, "code", "INDIRECT", "JOIN"),
        ]
    }
    assert settled(receiver.events)
    assert not any(SECRET in body or str(USER) in body for body in receiver.bodies)


@pytest.mark.long
@pytest.mark.parametrize("whole", WHOLE)
def test_every_verb(
    spark: SparkSession, told_settings: Settings, receiver: Receiver, name: str, tmp_path: Path, whole: bool
) -> None:
    raw = log(spark, tmp_path, [1])
    ds = Dataset.create(spark, told_settings, name, raw.schema, raw)
    ds.write(raw, run_id="day-1", gate=False)
    ds.features.add("age", ages, run_id="age", gate=False)
    everything = columns(receiver.last(f"{name}.add-features.age"), "fg_age")["age"]
    assert {c for _, c, _, _ in everything} == {"user_id", "request_id", "event_date", "ts", "country", "hist"}

    def told(job: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
        event = receiver.last(f"{name}.{job}")
        assert event["eventType"] == "COMPLETE"
        return own(event), tables(event["inputs"]), tables(event["outputs"])

    ds.write(log(spark, tmp_path, [2], first_request=100), run_id="day-2", gate=False)
    ds.features.refresh("age", ages, run_id="fresh", gate=False)
    assert told("refresh-features.age") == (
        {"runId": "fresh", READ: 3, PUBLISHED: 4}, [("requests", "3")], [("fg_age", "4")]
    )  # fmt: skip
    ds.features.promote("age", run_id="promote")
    assert told("promote-features.age") == (
        {"runId": "promote", READ: 4, PUBLISHED: 5}, [("fg_age", "4"), ("requests", "4")],
        # Its rows left its own table.
        [("fg_age", "5"), ("requests", "5")],
    )  # fmt: skip
    assert columns(receiver.last(f"{name}.promote-features.age"), "requests") == {
        "age": [("fg_age", "age", "DIRECT", "IDENTITY")]
    }

    ds.backfill(Change(expressions={"y": "y + 10"}), Affected(users=[1, USER]), run_id="fix", gate=False)
    assert told("backfill") == ({"runId": "fix", READ: 5, PUBLISHED: 6}, [("impressions", "5")], [("impressions", "6")])
    late = frame(spark, [(1, 1, 31, 3, day(9))], "user_id bigint, request_id bigint, item bigint, y int, at timestamp")
    ds.merge_labels(late, "y", "at", "late", gate=False)
    assert told("late-labels") == (
        {"runId": "late", READ: 6, PUBLISHED: 7},
        [("impressions", "6")],
        [("impressions", "7"), ("label_times", "7")],
    )
    ds.rollback(6, run_id="back")
    done, inputs, outputs = told("rollback")
    assert done == {"runId": "back", READ: 6, PUBLISHED: 8}
    assert ("requests", "6") in inputs
    assert ("requests", "8") in outputs
    assert [n for n, _ in inputs] == [n for n, _ in outputs]
    assert settled(receiver.events)
    assert not any(SECRET in body or str(USER) in body for body in receiver.bodies)
    if not whole:
        return

    ds.samples.make("half", fraction=0.5, run_id="sampled")
    assert told("sample.half") == ({"runId": "sampled", READ: 8}, [("requests", "8")], [])
    ds.samples.materialise("half", f"{name}_half", gate=False)
    done, inputs, outputs = told("materialise-sample.half")
    assert done == {"runId": "sample-half-v8", PUBLISHED: 1}
    assert inputs == [("impressions", "8"), ("requests", "8")]
    assert outputs == [("impressions", "1"), ("requests", "1")]

    ds.convert(f"{name}_flat", layout="flat", run_id="flat", drop_features=True)
    done, inputs, outputs = told(f"convert.{name}_flat")
    assert done["runId"] == "flat"
    assert ("requests", "8") in inputs
    assert [n for n, _ in outputs] == ["logs"]

    ds.forget_users([USER], "gdpr")
    done, _, outputs = told("forget-user")
    assert done["runId"] == "gdpr"
    assert {"requests", "impressions"} <= {n for n, _ in outputs}
    # Nothing is decayed: a run that published nothing.
    ds.maintain("upkeep", orphans=False)
    assert told("maintain") == ({"runId": "upkeep"}, [], [])
    for group in ("land", "place"):
        ds.features.add(group, {group: "country"}, run_id=group, gate=False)
    ds.features.bundle("both", ["land", "place"], run_id="both")
    done, inputs, outputs = told("bundle-features.both")
    version = ds.metadata().current
    assert done == {"runId": "both", READ: version - 1, PUBLISHED: version}
    assert [n for n, _ in inputs] == ["fg_land", "fg_place", "requests"]
    # Their rows left their own tables.
    assert [n for n, _ in outputs] == ["fb_both", "fg_land", "fg_place"]
    both = columns(receiver.last(f"{name}.bundle-features.both"), "fb_both")
    assert both == {c: [(f"fg_{c}", c, "DIRECT", "IDENTITY")] for c in ("land", "place")}
    ds.features.drop("land", run_id="drop")
    dropped = receiver.last(f"{name}.drop-features.land")
    assert [o["facets"]["lifecycleStateChange"]["lifecycleStateChange"] for o in dropped["outputs"]] == ["DROP"]
    assert tables(dropped["outputs"]) == [("fg_land", str(own(dropped)[PUBLISHED]))]

    assert settled(receiver.events)
    assert not any(SECRET in body or str(USER) in body for body in receiver.bodies)


@pytest.mark.long
def test_delta_and_adoption(
    spark: SparkSession, told_settings: Settings, receiver: Receiver, name: str, tmp_path: Path
) -> None:
    delta = told_settings.model_copy(update={"format": "delta"})
    raw = log(spark, tmp_path, [1])
    ds = Dataset.create(spark, delta, name, raw.schema, raw)
    ds.write(raw, run_id="day-1", gate=False)
    done = receiver.last(f"{name}.write")
    assert tables(done["outputs"]) == [("impressions", "1"), ("requests", "1")]
    assert rows_written(done) == {"requests": 5, "impressions": 15}
    ds.features.add("len", {"length": "size(hist) + y"}, grain=Grain.IMPRESSION, run_id="len", gate=False)
    done = receiver.last(f"{name}.add-features.len")
    assert tables(done["inputs"]) == [("impressions", "1"), ("requests", "1")]
    assert tables(done["outputs"]) == [("fg_len", "2")]
    assert [(t, c) for t, c, _, _ in columns(done, "fg_len")["length"]] == [("requests", "hist"), ("impressions", "y")]
    # A plain folder has no catalog that names its tables.
    assert all("symlinks" not in o["facets"] for o in done["outputs"])

    rows = flat_rows([1])
    place = tmp_path / "flat"
    positioned = [(*row, number % 3) for number, row in enumerate(rows)]
    types = (
        "user_id bigint, request_id bigint, ts timestamp, country string, hist array<bigint>, item bigint, y int, p int"
    )
    frame(spark, positioned, types).coalesce(1).write.format("delta").save(str(place))
    adopt(
        spark, delta, f"{name}_found", flat_schema(position="p", date_grain="none", buckets=None), str(place), "adopt"
    )
    done = receiver.last(f"{name}_found.adopt")
    assert [i["name"] for i in done["inputs"]] == [str(place)]
    assert tables(done["outputs"]) == [("logs", "1")]
    assert settled(receiver.events)
    assert not any(SECRET in body or str(USER) in body for body in receiver.bodies)


def test_columns_that_an_expression_reads(spark: SparkSession) -> None:
    rows = spark.createDataFrame([], "a int, b array<int>, c struct<a: int, d: int>, size int, `A b` int")
    read = {
        "size(b)": {"b"},
        "transform(b, a -> a + size)": {"b", "size"},
        "c.d + 1": {"c"},
        "'a' || \"b\" /* size */": set(),
        "CASE WHEN a > 0 THEN size END": {"a", "size"},
        "A + `A b`": {"a", "A b"},
    }
    assert {text: set(read_columns(rows, text)) for text in read} == read
