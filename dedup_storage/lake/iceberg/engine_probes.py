"""The commits that a publication is made of, each made once in a table of its own."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.compute as pc
from pyiceberg.table import Table
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.lake.engine.atomic import atomic_change
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.iceberg.branch import came_first
from dedup_storage.lake.iceberg.format import TABLE_PROPERTIES
from dedup_storage.lake.iceberg.holds import ATTEMPT
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.one_commit import LOSSY, WHOLE, OneCommit
from dedup_storage.lake.iceberg.references import KEEP_REMEDY, lost_reference
from dedup_storage.lake.iceberg.snapshots import live_rows, snapshot_summary, tags
from dedup_storage.lake.probing import ROWS, Finding, Probes, State
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.spark.errors import JAVA_ERRORS, commit_unknown, translated

__all__ = ["take_engine_probes"]

_NAME = "rows"
_RIGHTS = "Check the catalog's rights, and that Spark and its executors can write to the store."
_SWAP = "Use a catalog that refuses a commit which rests on an outdated state; with this one versions get lost."
_APART = "Let engines that read main load a version's tags: they may see it in one table before the other."
# As a hold's property that names a version's members.
_TEXT = "x" * 2000


class _Engine:
    """One table, changed as a publication changes a dataset's tables."""

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake, namespace: str) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self.place = (namespace, _NAME)
        self.full = ".".join((settings.catalog.name, *self.place))
        self.staged = 0

    def load(self) -> Table:
        return self.lake.catalog.load_table(self.place)

    def table(self) -> str:
        catalog, (namespace, name) = self.settings.catalog.name, self.place
        self.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {quoted(catalog, namespace)}")
        self.spark.sql(
            f"CREATE TABLE {quoted(catalog, namespace, name)} (user_id bigint, number int) USING iceberg "
            f"PARTITIONED BY (bucket(4, user_id)) TBLPROPERTIES ({listed(TABLE_PROPERTIES)})"
        )
        return f"made, of format version {TABLE_PROPERTIES['format-version']}, in 4 buckets"

    def references(self) -> Finding | str:
        lost = lost_reference(self.spark, self.settings, self.lake.catalog, self.place)
        if lost is None:
            return "kept"
        return Finding(f"the catalog {lost}", State.MISSING, KEEP_REMEDY)

    def stage(self) -> Finding | str:
        session = run_session(self.spark)
        session.conf.set("spark.wap.id", "probe/1")
        rows = session.range(ROWS).selectExpr("id AS user_id", "CAST(id AS int) AS number")
        rows.writeTo(self.full).append()
        table = self.load()
        found = [s.snapshot_id for s in table.metadata.snapshots if snapshot_summary(s).get(ATTEMPT) == "probe/1"]
        if not found:
            return Finding("what was staged is not there", State.MISSING, KEEP_REMEDY)
        if table.metadata.current_snapshot_id == found[0]:
            return Finding("what was staged is seen at once", State.MISSING, KEEP_REMEDY)
        self.staged = found[0]
        return f"{ROWS} rows staged, and nobody sees them"

    def claim(self) -> Finding | str:
        with atomic_change(self.spark, self.full) as change:
            change.tag("hold", self.staged)
            change.set_property("probe", _TEXT)
        table = self.load()
        if tags(table).get("hold") != self.staged or table.properties.get("probe") != _TEXT:
            return Finding("committed, and not there", State.MISSING, KEEP_REMEDY)
        return "committed"

    def writers(self) -> Finding | str:
        try:
            with atomic_change(self.spark, self.full) as late:
                late.tag("claim", self.staged)
                with atomic_change(self.spark, self.full) as early:
                    early.tag("claim", self.staged)
        except JAVA_ERRORS as error:
            if not came_first(error) or commit_unknown(error):
                raise
            return "the second one was refused"
        return Finding("both were told that they came first", State.MISSING, _SWAP)

    def pick(self) -> Finding | str:
        with atomic_change(self.spark, self.full) as change:
            change.tag("v1", change.pick(self.staged))
            change.untag("hold")
        table = self.load()
        rows, named = live_rows(table, table.metadata.current_snapshot_id), tags(table)
        if rows != ROWS or named.get("v1") != table.metadata.current_snapshot_id or "hold" in named:
            return Finding(f"main has {rows} rows of {ROWS}, with the tags {sorted(named)}", State.MISSING, KEEP_REMEDY)
        return "picked and tagged in one commit"

    def together(self) -> Finding | str:
        one = OneCommit(self.spark, self.settings, self.lake)
        if not one.offered:
            return Finding("not offered; versions are published table by table", State.NOT_NEEDED)
        found = one.trial(self.place[0])
        if found == WHOLE:
            return "two tables changed by one commit; publications use it"
        told = "loses a part of one that it said it had made" if found == LOSSY else "refuses them"
        return Finding(
            f"the catalog offers such commits and {told}; versions are published table by table", State.WARNING, _APART
        )

    def read(self) -> Finding | str:
        table = self.load()
        snapshot = tags(table)["v1"]
        bare = table.scan(snapshot_id=snapshot).to_arrow()
        spark = self.spark.read.option("versionAsOf", str(snapshot)).table(self.full).count()
        if (bare.num_rows, pc.sum(bare["user_id"]).as_py(), spark) != (ROWS, ROWS * (ROWS - 1) // 2, ROWS):
            return Finding(
                f"{bare.num_rows} rows without Spark and {spark} with it, of {ROWS}",
                State.MISSING,
                "Report this with the versions above: rows were lost.",
            )
        return f"{ROWS} rows, the same as with Spark"


def take_engine_probes(
    spark: SparkSession, settings: Settings, lake: Lake, namespace: str, probes: Probes
) -> str | None:
    """Take the probes; gives the table with ``ROWS`` rows in buckets, if it came to that.

    Args:
        spark, settings, lake: The catalog, as both clients see it.
        namespace: Where the table is made; whoever calls removes it.
        probes: Takes the results.
    """
    engine = _Engine(spark, settings, lake, namespace)
    table, staged, picked = "Spark: table in buckets", "Spark: staged rows", "Spark: cherry-pick"

    def take(name: str, look: Callable[[], Finding | str], remedy: str, *needs: str) -> None:
        def told() -> Finding | str:
            with translated():
                return look()

        probes.take(name, told, remedy=remedy, needs=needs)

    take(table, engine.table, _RIGHTS)
    take("Spark: tags and snapshots", engine.references, KEEP_REMEDY, table)
    take(staged, engine.stage, _RIGHTS, table)
    take("Spark: tag and property in one commit", engine.claim, KEEP_REMEDY, staged)
    take("Spark: two writers", engine.writers, _SWAP, staged)
    take("Spark: all tables in one commit", engine.together, _RIGHTS, table)
    take(picked, engine.pick, KEEP_REMEDY, staged)
    take("rows read without Spark", engine.read, "Give PyIceberg the store's keys: catalog.properties.", picked)
    return engine.full if probes.works(picked) else None
