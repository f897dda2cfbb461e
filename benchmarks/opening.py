"""Opening a reader on few and on many requests: time to the first batch, and memory grown until then.

Datasets by PyIceberg alone, laid out as the writer lays them out, with segments of one size: what grows is their
number. Each measurement is a process of its own, which has read a small dataset before it begins: imports and what is
started once belong to no opening.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import ROOT, Report, parse_kept, written
from dedup_storage.config import Settings

BUCKETS, CANDIDATES, TOKENS = 16, 20, 16
# The same for both: by default the larger dataset would have more splits, and so more files open for a batch. Windows
# are smaller than the default's, since what they hold is no cost of opening.
OPTIONS = {"splits": 8, "buffer_bytes": 64 << 20}
# Requests of a day, of the smaller dataset and of the larger.
SIZES = {"small": (50_000, 100_000, 1_000_000), "full": (250_000, 500_000, 5_000_000)}
# One manifest a table, as `maintain` leaves it.
MERGED = {"commit.manifest-merge.enabled": "true", "commit.manifest.min-count-to-merge": "2"}
FIRST_DAY, GROWTH, SECONDS, MEGABYTES = 19_000, 1.3, 1.0, 60.0
MB = 1 << 20


def days(requests: int, of_day: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Requests and impressions of one day after the other, in the order of their keys."""
    rng = np.random.default_rng(0)
    for day, first in enumerate(range(0, requests, of_day)):
        count = min(of_day, requests - first)
        user = np.sort(rng.integers(0, max(count // 10, 1), count))
        lengths = rng.integers(CANDIDATES // 2, CANDIDATES + CANDIDATES // 2 + 1, count)
        total = int(lengths.sum())
        key = {
            "user_id": pa.array(user),
            "request_id": pa.array(np.arange(first, first + count)),
            "event_date": pa.array(np.full(count, FIRST_DAY + day, np.int32), pa.date32()),
        }
        tokens = pa.array(rng.integers(0, 100_000, count * TOKENS))
        history = pa.ListArray.from_arrays(pa.array(np.arange(0, count * TOKENS + 1, TOKENS), pa.int32()), tokens)
        owner = pa.array(np.repeat(np.arange(count), lengths))
        position = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        impressions = {
            **{name: column.take(owner) for name, column in key.items()},
            "position": pa.array(position.astype(np.int32)),
            "item_id": pa.array(rng.integers(0, 100_000, total)),
            "label": pa.array(rng.integers(0, 2, total, dtype=np.int32)),
        }
        times = (FIRST_DAY + day) * 86_400_000_000 + np.arange(count)
        event_time = pa.array(times, pa.timestamp("us", tz="UTC"))
        yield pa.table({**key, "event_time": event_time, "history": history}), pa.table(impressions)


def write(settings: Settings, name: str, requests: int, of_day: int) -> None:
    """A dataset of split layout by day and user bucket, one version, one file in each segment."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.transforms import BucketTransform, IdentityTransform

    from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
    from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, Layout, TableRole, version_tag
    from dedup_storage.schema import DateGrain, LogSchema

    meaning = {"user": "user_id", "request": ["request_id"], "item": "item_id", "position": "position"}
    schema = LogSchema.from_dict(
        {
            **meaning,
            "event_time": "event_time",
            "labels": ["label"],
            "sequences": [{"column": "history"}],
            "columns": {"event_date": "request"},
        }
    )
    types = dict.fromkeys(("user_id", "request_id", "item_id"), "bigint") | dict.fromkeys(("position", "label"), "int")
    types |= {"event_date": "date", "event_time": "timestamp", "history": "array<bigint>"}
    spec = DatasetSpec.build(name, schema, types, layout=Layout.SPLIT, date_grain=DateGrain.DAY, buckets=BUCKETS)
    catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    catalog.create_namespace(name)
    stored = {}
    for rows in days(requests, of_day):
        for table_spec in spec.tables:
            data = rows[0 if table_spec.role is TableRole.REQUESTS else 1]
            data = data.select([c for c in table_spec.columns if c in data.column_names])
            if table_spec.role not in stored:
                properties = {ROLE_PROPERTY: table_spec.role.value, **MERGED}
                if table_spec == spec.anchor:
                    properties[SPEC_PROPERTY] = spec.to_json()
                made = catalog.create_table(f"{name}.{table_spec.name}", data.schema, properties=properties)
                with made.update_spec() as update:
                    update.add_field("event_date", IdentityTransform(), "event_date_part")
                    update.add_field("user_id", BucketTransform(BUCKETS), "user_bucket")
                stored[table_spec.role] = made
            stored[table_spec.role].append(data)
    for table in stored.values():
        snapshot_id = table.metadata.current_snapshot_id
        if snapshot_id is not None:
            table.manage_snapshots().create_tag(snapshot_id, version_tag(1)).commit()


# -- the process that is measured ---------------------------------------------------------------------------------
def resident(field: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(warehouse: str, name: str, options: dict[str, Any]) -> dict[str, float]:
    """Seconds and bytes of one opening."""
    from dedup_storage.reader import DedupDataset

    settings = Settings(warehouse=warehouse)
    for batch in DedupDataset("warm", settings):
        del batch
    Path("/proc/self/clear_refs").write_text("5")
    before, begin = resident("VmRSS"), time.perf_counter()
    dataset = DedupDataset(name, settings, **options)
    opened, grown_open = time.perf_counter() - begin, resident("VmHWM") - before
    batches = iter(dataset)
    next(batches)
    first, grown = time.perf_counter() - begin, resident("VmHWM") - before
    batches.close()
    begin = time.perf_counter()
    batches_in_all = len(dataset)
    counted = time.perf_counter() - begin
    return {
        "open": opened, "first": first, "grown_open": grown_open, "grown": grown,
        "count": counted, "batches": batches_in_all,
    }  # fmt: skip


def alone(settings: Settings, name: str, options: dict[str, Any]) -> dict[str, float]:
    """The same in a process of its own."""
    ended = subprocess.run(
        [sys.executable, __file__, "--measure", str(settings.warehouse), name, json.dumps(options)],
        env={"PYTHONPATH": str(ROOT), **os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


# -- the table ----------------------------------------------------------------------------------------------------
def compare(report: Report, settings: Settings, sizes: Sequence[int], rounds: int) -> None:
    """Openings of both datasets in turn."""
    names = {size: f"requests_{size}" for size in sizes}
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, name in names.items():
            found[size].append(alone(settings, name, OPTIONS))
    for size in sizes:
        what = f"{size / 1e6:g} million requests"
        for key, metric, unit, scale, most in (
            ("open", "opened", "s", 1, None),
            ("first", "first batch", "s", 1, SECONDS),
            ("grown_open", "memory grown when opened", "MB", MB, None),
            ("grown", "memory grown at the first batch", "MB", MB, MEGABYTES),
            ("count", "`len`: the exact number of batches", "s", 1, None),
        ):
            values = [f[key] / scale for f in found[size]]
            middle = statistics.median(values)
            target = most if size == sizes[-1] else None
            holds = None if target is None else middle < target
            told = None if target is None else f"< {target:g}"
            report.add(f"{what}: {metric}", middle, unit, spread=(min(values), max(values)), target=told, holds=holds)
    for key, metric in (("first", "time to the first batch"), ("grown", "memory grown")):
        ratios = [large[key] / small[key] for small, large in zip(*found.values(), strict=True)]
        middle = statistics.median(ratios)
        report.add(
            f"{sizes[1] // sizes[0]} times the requests: {metric}",
            middle,
            "x",
            spread=(min(ratios), max(ratios)),
            target=f"<= {GROWTH:g}",
            holds=middle <= GROWTH,
        )


def main() -> None:
    """Write both datasets, open them in turn."""
    if sys.argv[1:2] == ["--measure"]:
        warehouse, name, options = sys.argv[2:]
        sys.stdout.write(json.dumps(measured(warehouse, name, json.loads(options))) + "\n")
        return
    arguments = parse_kept(str(__doc__), None)
    place = arguments.place if arguments.place else Path(tempfile.mkdtemp(prefix="dedup-storage-benchmark-"))
    try:
        settings = Settings(warehouse=str(place.resolve() / "warehouse"))
        of_day, *sizes = SIZES[arguments.scale]
        if not (place / "written").exists():
            write(settings, "warm", 2_000, 1_000)
            for size in sizes:
                write(settings, f"requests_{size}", size, of_day)
        if written(arguments):
            return
        files = {"impressions of a request": CANDIDATES, "requests of a file": of_day // BUCKETS, "options": OPTIONS}
        report = Report("opening", arguments.scale, files)
        compare(report, settings, sizes, arguments.rounds)
        report.finish(arguments.json)
    finally:
        if not arguments.place:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
