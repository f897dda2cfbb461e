"""The doctor with Spark, on the suite's lakes and on REST catalogs that fall short; what is refused at creation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.doctor.examine import examine
from dedup_storage.errors import ConfigError
from dedup_storage.lake.catalogs import open_admin
from dedup_storage.lake.probing import Probe
from dedup_storage.lake.session import get_spark
from tests.spark.backfilling import build, log
from tests.spark.conftest import Serve
from tests.spark.helpers import same_rows

# Probes that need Spark, and how they end where everything is there.
ENGINES = {"Java": "ok", "Spark starts": "ok", "engine versions": "ok"}
JOINS = {"joins: settings": "ok", "joins: plugins": "ok"}
ICEBERG = {
    **ENGINES, **JOINS, "Spark: table in buckets": "ok", "Spark: tags and snapshots": "ok", "Spark: staged rows": "ok",
    "Spark: tag and property in one commit": "ok", "Spark: two writers": "ok", "Spark: cherry-pick": "ok",
    "rows read without Spark": "ok", "joins: inside buckets": "ok", "Spark: all tables in one commit": "not-needed",
}  # fmt: skip
DELTA = {**ENGINES, **JOINS, "Spark: Delta table": "ok"}


def probed(settings: Settings) -> dict[str, Probe]:
    """What the suite's session shows of some settings."""
    return {p.name: p for p in examine(settings, lambda given: nullcontext(get_spark(given))).probes}


def states(found: dict[str, Probe]) -> dict[str, str]:
    """States of the probes that need Spark."""
    own = {*ICEBERG, *DELTA}
    return {name: probe.state.value for name, probe in found.items() if name in own}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.long
@pytest.mark.parametrize(("table_format", "expected"), [("delta", DELTA), ("iceberg", ICEBERG)])
def test_the_local_lakes(
    spark: SparkSession, settings: Settings, name: str, table_format: str, expected: dict[str, str]
) -> None:
    lake = settings.model_copy(update={"format": table_format})
    build(spark, lake, name)
    before = names(Path(lake.warehouse) / name)
    found = probed(lake)
    assert states(found) == expected
    assert {n for n, p in found.items() if p.state.value == "missing"} == set()
    assert found["nothing is left behind"].found == "everything that was made is gone"
    assert names(Path(lake.warehouse) / name) == before
    assert not [n for n in names(Path(lake.warehouse)) if "dedup_storage_doctor" in n]
    assert spark.version in found["engine versions"].found
    if table_format == "iceberg":
        assert found["rows read without Spark"].found == "64 rows, the same as with Spark"
        assert found["joins: inside buckets"].found == "64 rows joined, none moved"
    else:
        assert found["Spark: Delta table"].found == "64 rows staged, committed once, read with Spark and without"


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"loses_tags": True}, "keeps no tags"),
        ({"refuses_tags": True}, "refuses tags: Malformed request: this catalog has no tags"),
        ({"newest_only": True}, "keeps no snapshot that is staged, which no branch names"),
    ],
)
def test_a_catalog_without_tags_is_refused_by_that_reason(
    spark: SparkSession, serve: Serve, name: str, flaw: dict[str, bool], reason: str
) -> None:
    server, lake = serve(**flaw)
    session = get_spark(lake)
    with pytest.raises(ConfigError) as refused:
        build(session, lake, name)
    assert str(refused.value).startswith(
        f"the catalog {lake.catalog.name} (rest, {server.uri}) {reason}, and versions are made of tags and staged "
        "snapshots, so no dataset can be created there. Use a catalog that keeps"
    )
    assert (server.tables, server.namespaces) == ({}, {})
    found = probed(lake)
    assert found["Spark: tags and snapshots"].found == f"the catalog {reason}"
    missing = {n for n, p in found.items() if p.state.value == "missing"}
    assert {"catalog: tags and snapshots", "Spark: tags and snapshots"} <= missing
    assert (server.tables, server.namespaces) == ({}, {})


def test_a_catalog_that_looks_at_nothing_is_found_out(spark: SparkSession, serve: Serve) -> None:
    server, lake = serve(careless=True)
    found = probed(lake)
    # Java's client looks once more before it commits, so what happens between that and the commit is not seen there.
    assert {n for n, p in found.items() if p.state.value == "missing"} == {"catalog: two writers"}
    assert (server.tables, server.namespaces) == ({}, {})


@pytest.mark.long
def test_a_rest_catalog_that_keeps_everything(spark: SparkSession, serve: Serve, name: str) -> None:
    server, lake = serve(transactions=True)
    found = probed(lake)
    together = found["Spark: all tables in one commit"]
    assert together.found == "two tables changed by one commit; publications use it"
    assert states(found) == {**ICEBERG, together.name: "ok"}
    assert {n for n, p in found.items() if p.state.value == "missing"} == set()
    ds = build(get_spark(lake), lake, name)
    same_rows(ds.logs(), log(spark, [1, 2]).frame)
    assert {key[1] for key in server.tables} == {"requests", "impressions"}
    assert open_admin(lake).datasets() == [name]
