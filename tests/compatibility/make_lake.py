"""Makes the lake that later releases must read: ``python -m tests.compatibility.make_lake ARCHIVE``.

Run at commit c49b8a4, it made ``c49b8a4.tar.gz``, which is never made again. Run at another commit, it makes a lake
of that one. In each dataset stand all kinds of versions, and beside the lake what Spark read of them at that time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dedup_storage.config import CatalogSettings, Settings, load_settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.session import DELTA_PACKAGE, get_spark
from tests.compatibility.archive import EXPECTED, UNCOMPRESSED, pack, place_in
from tests.compatibility.contents import CATALOG, KINDS, Kind, canonical
from tests.conftest import ROOT
from tests.spark.helpers import day

STRATA = [{"name": "country", "column": "country"}]
FRACTIONS = {"country=DK": 0.5, "country=SE": 0.75}


def grow(ds: Dataset, kind: Kind) -> None:
    """Write versions of every kind, samples and a pin."""
    spark = ds.spark
    ds.write(kind.log(spark, [1, 2]), run_id="days-1-2", gate=False)
    ds.write(kind.log(spark, [9], 900), run_id="mistake", gate=False)
    ds.rollback(1, run_id="back")
    ds.write(kind.log(spark, [3], 100), run_id="day-3", gate=False)
    ds.write(kind.log(spark, [2], 200), run_id="day-2-again", mode="replace", gate=False)
    ds.pin(5, "paper")
    ds.sample("half", fraction=0.5, seed=3)
    ds.sample("some", fractions=FRACTIONS, strata=STRATA, seed=3)
    ds.add_features("age", {"n": "size(hist)"}, run_id="age", gate=False)
    ds.add_features("match", {"seen": "array_contains(hist, item)"}, grain="impression", run_id="match", gate=False)
    ds.add_features("place", {"place": "lower(country)"}, run_id="place", gate=False)
    ds.promote_features("place", run_id="promoted")
    some = Affected(users=[kind.user(1), kind.user(5)])
    ds.backfill(Change(expressions={"y": "y + 10"}), some, run_id="fix", strategy=kind.strategy, gate=False)
    # The first label of request 1 and one of an impression that is not there.
    late = kind.late(spark, [(1, 1, 31, 50, day(9)), (5, 777, 1, 1, day(9))])
    merged = ds.merge_labels(late, "y", "at", run_id="labels", gate=False)
    assert (merged.merged_rows, merged.unknown_rows) == (1, 1), merged
    # The groups have no rows of this day, but "age" gets them.
    ds.write(kind.log(spark, [4], 300), run_id="day-4", gate=False)
    ds.refresh_features("age", run_id="age-again", gate=False)


def described(ds: Dataset) -> dict[str, Any]:
    """What today's code reads of a dataset."""
    versions = [
        {
            "version": info.version,
            "run_id": info.run_id,
            "job": info.job,
            "parent": info.parent,
            "pins": list(info.pins),
            "features": {
                name: {"grain": group.grain.value, "columns": group.types, "promoted": group.promoted}
                for name, group in ds.features(info.version).items()
            },
            "logs": canonical(ds.logs(info.version)),
        }
        for info in ds.versions()
    ]
    samples = {
        sample.name: {"version": sample.version, "users": canonical(ds.sample_users(sample.name))}
        for sample in ds.samples()
    }
    return {"versions": versions, "samples": samples}


def no_paths_inside(place: Path) -> None:
    """Refuse a lake whose Parquet rows hold the folder's path, for compression hides it from the archive's eyes."""
    for file in place.rglob("*.parquet"):
        assert str(place) not in str(pq.ParquetFile(file).read().to_pylist()), file


def lake_settings(place: Path) -> Settings:
    """Settings of a session with both formats."""
    settings = load_settings(ROOT / "conf" / "local.yaml", {})
    spark = settings.spark.model_copy(
        update={
            "master": "local[2]",
            "packages": (*settings.spark.packages, DELTA_PACKAGE),
            "conf": {**settings.spark.conf, "spark.sql.shuffle.partitions": "2", "spark.driver.memory": "2g"},
        }
    )
    catalog = CatalogSettings(name=CATALOG, properties=UNCOMPRESSED)
    return settings.model_copy(update={"spark": spark, "catalog": catalog, "warehouse": str(place)})


def main(archive: Path) -> None:
    """Make the lake and pack it."""
    with tempfile.TemporaryDirectory() as folder:
        place = place_in(Path(folder))
        settings = lake_settings(place)
        spark = get_spark(settings, "kept lake")
        expected = {}
        for kind in KINDS.values():
            raw = kind.log(spark, [1])
            own = settings.model_copy(update={"format": kind.format})
            ds = Dataset.create(spark, own, kind.name, raw.schema, raw, layout=kind.layout)
            grow(ds, kind)
            expected[kind.name] = described(ds)
        spark.stop()
        no_paths_inside(place)
        (place / EXPECTED).write_text(json.dumps(expected, ensure_ascii=False), encoding="utf-8")
        pack(place, archive)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
