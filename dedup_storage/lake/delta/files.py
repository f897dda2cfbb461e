"""Which files a Delta version has, from the log alone, and which of them a run replaces."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.lake.delta.layout import bucket_column, partition_columns
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.stage import StagedFiles
from dedup_storage.lake.folders import is_hidden, list_files, open_folder
from dedup_storage.lake.segments import date_part
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain

__all__ = [
    "LiveFiles",
    "exchanged_actions",
    "file_bounds",
    "live_files",
    "marks_rows",
    "parquet_actions",
    "replaced_files",
    "restored_actions",
    "touched_files",
]

_PARTITION = "partition."


@dataclass(frozen=True)
class LiveFiles:
    """The files of one Delta version.

    Attributes:
        table: One row a file: ``path``, ``size_bytes``, ``num_records``, ``partition.<column>``, ``min.<column>``, ….
    """

    table: pa.Table

    @property
    def paths(self) -> list[str]:
        """Their places in the table's folder."""
        found: list[str] = self.table["path"].to_pylist()
        return found

    @property
    def rows(self) -> int:
        """Rows of all of them."""
        return int(pc.sum(self.table["num_records"]).as_py() or 0) if self.table.num_rows else 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them."""
        return int(pc.sum(self.table["size_bytes"]).as_py() or 0) if self.table.num_rows else 0

    @cached_property
    def partitions(self) -> list[dict[str, Any]]:
        """Partition values of each file."""
        names = [n for n in self.table.column_names if n.startswith(_PARTITION)]
        return [{n.removeprefix(_PARTITION): r[n] for n in names} for r in self.table.select(names).to_pylist()]

    def where(self, mask: pa.Array) -> LiveFiles:
        """Some of them."""
        return LiveFiles(self.table.filter(mask))

    def at(self, paths: Iterable[str]) -> LiveFiles:
        """Those at some places; fewer than the places when one of them is not live."""
        if not self.table.num_rows:
            return self
        return self.where(pc.is_in(self.table["path"].combine_chunks(), pa.array(list(paths), pa.string())))

    def removals(self) -> list[str]:
        """The actions that take them out, as JSON."""
        rows = zip(self.paths, self.partitions, self.table["size_bytes"].to_pylist(), strict=True)
        return [_removal(path, _texts(partition), size) for path, partition, size in rows]


def live_files(ref: DeltaRef, version: int | None = None) -> LiveFiles:
    """The files of a Delta version (``None``: the newest)."""
    return LiveFiles(pa.table(ref.load(version).get_add_actions(flatten=True)))


def touched_files(
    spec: DatasetSpec,
    table: pa.Table,
    start: date | None,
    end: date | None,
    buckets: Collection[int] | None,
) -> pa.Array:
    """Which files may hold rows of some event dates (``None``: no bound) and user buckets (``None``: all).

    Args:
        spec: The dataset.
        table: As of ``LiveFiles``.
        start, end: First and last event date.
        buckets: User buckets.
    """
    mask = pa.array([True] * table.num_rows)
    if spec.event_date_column is not None:
        low, high = file_bounds(table, spec.event_date_column)
        if start is not None and high is not None:
            mask = pc.and_(mask, pc.fill_null(pc.greater_equal(high, pa.scalar(start)), True))
        if end is not None and low is not None:
            mask = pc.and_(mask, pc.fill_null(pc.less_equal(low, pa.scalar(end)), True))
    bucket = _PARTITION + bucket_column(spec)
    if buckets is not None and bucket in table.column_names:
        values = table[bucket].combine_chunks()
        mask = pc.and_(mask, pc.is_in(values, pa.array(list(buckets), values.type)))
    return mask


def file_bounds(table: pa.Table, column: str) -> tuple[pa.Array | None, pa.Array | None]:
    """Least and greatest value of a column in each file, where they are known."""
    if _PARTITION + column in table.column_names:
        values = table[_PARTITION + column].combine_chunks()
        return values, values
    names = [f"min.{column}", f"max.{column}"]
    if not set(names) <= set(table.column_names):
        return None, None
    low, high = (table[n].combine_chunks() for n in names)
    return low, high


def _removal(path: str, partition: Mapping[str, str | None], size: int, vector: Any = None) -> str:
    """The action that takes a file out of the table, as JSON."""
    action = {
        "path": path,
        "deletionTimestamp": time.time_ns() // 1_000_000,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": partition,
        "size": size,
    }
    return json.dumps({"remove": action if vector is None else {**action, "deletionVector": vector}})


def _texts(partition: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in partition.items()}


def replaced_files(spec: DatasetSpec, ref: DeltaRef, staged: StagedFiles) -> list[str]:
    """The actions that take out the newest version's files in the ranges and buckets that an attempt replaces."""
    files, spec = live_files(ref), spec.partitioned(staged.table)
    if not files.table.num_rows:
        return []
    mask = pa.array([False] * files.table.num_rows)
    for low, high in staged.replaced or ():
        mask = pc.or_(mask, _inside(spec, files.table, low, high))
    if staged.buckets is not None:
        bucket = files.table[_PARTITION + bucket_column(spec)].combine_chunks()
        mask = pc.and_(mask, pc.is_in(bucket, pa.array(staged.buckets, bucket.type)))
    return files.where(mask).removals()


def _inside(spec: DatasetSpec, table: pa.Table, low: str, high: str) -> pa.Array:
    """Whether each file's date part lies in a range; ranges are whole parts."""
    mask = pa.array([True] * table.num_rows)
    # Of a table without dates everything goes, or nothing is asked.
    if spec.event_date_column is None or spec.date_grain is DateGrain.NONE or not (low or high):
        return mask
    # As text a day or a month sorts as it does in time; a month is before its own first day.
    part = table[_PARTITION + partition_columns(spec)[0]].combine_chunks().cast(pa.string())
    if low:
        mask = pc.and_(mask, pc.greater_equal(part, date_part(low, spec.date_grain)))
    if high:
        mask = pc.and_(mask, pc.less(part, date_part(high, spec.date_grain)))
    return mask


def marks_rows(ref: DeltaRef) -> bool:
    """Whether files of a table may hide rows: another tool had it keep deletion vectors."""
    return "deletionVectors" in (ref.load().protocol().reader_features or ())


def exchanged_actions(target: Iterable[str], now: Iterable[str]) -> list[str]:
    """The actions that give a table the files of a version in place of those it has; one with other hidden rows is
    another file.

    Args:
        target: The actions that add the files wanted, as JSON.
        now: Those that add the files of the newest version.
    """
    wanted, have = ({_with_vector(action): action for action in actions} for actions in (target, now))
    gone = [json.loads(action)["add"] for key, action in have.items() if key not in wanted]
    taken = [_removal(a["path"], a.get("partitionValues", {}), a["size"], a.get("deletionVector")) for a in gone]
    return [*taken, *(action for key, action in wanted.items() if key not in have)]


def _with_vector(action: str) -> tuple[str, str]:
    added = json.loads(action)["add"]
    vector = added.get("deletionVector")
    return str(added["path"]), "" if vector is None else json.dumps(vector, sort_keys=True)


def restored_actions(ref: DeltaRef, target: Iterable[str]) -> list[str]:
    """The actions that give the newest version the files of another; of a table that never marked rows.

    Args:
        ref: The table.
        target: The actions that add the files wanted, as JSON.
    """
    wanted = {json.loads(action)["add"]["path"]: action for action in target}
    now = live_files(ref)
    if not now.table.num_rows:
        return list(wanted.values())
    gone = now.where(pc.invert(pc.is_in(now.table["path"].combine_chunks(), pa.array(list(wanted), pa.string()))))
    have = set(now.paths)
    return [*gone.removals(), *(action for path, action in wanted.items() if path not in have)]


def parquet_actions(folder: str, properties: Mapping[str, str]) -> list[str]:
    """The actions that add a folder's Parquet files where they lie, with their rows from the footers, as JSON."""
    filesystem, root = open_folder(folder, properties)
    base, found = _address(folder, root), []
    for file in sorted(list_files(folder, properties), key=lambda f: f.path):
        place = file.path[len(root) :].strip("/")
        if is_hidden(place):
            continue
        with filesystem.open_input_file(file.path) as stream:
            rows = pq.read_metadata(stream).num_rows
        add = {
            "path": f"{base}/{quote(place)}",
            "partitionValues": {},
            "size": file.size,
            "modificationTime": file.mtime_ns // 1_000_000,
            "dataChange": True,
            "stats": json.dumps({"numRecords": rows}),
        }
        found.append(json.dumps({"add": add}))
    return found


def _address(folder: str, root: str) -> str:
    """A folder's address as Delta's log names it: its own scheme, store or name node, and the place in it quoted."""
    scheme, separator, rest = folder.partition("://")
    if not separator or scheme == "file":
        return f"file://{quote(root.rstrip('/'))}"
    authority, _, inner = rest.partition("/")
    return f"{scheme}://{authority}/{quote(inner)}".rstrip("/")
