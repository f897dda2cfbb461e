"""Writes a synthetic log's Parquet files, locally or on any file system that Arrow knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from dedup_storage.errors import InputError, StorageError
from dedup_storage.synth.params import SynthParams
from dedup_storage.synth.tables import arrow_schema, batches

__all__ = ["GeneratedFile", "GeneratedLog", "finish", "prepare", "resolve", "write_file", "write_log"]

PARAMS_FILE = "_params.json"
SCHEMA_FILE = "_schema.yaml"
Opener = Callable[[str], tuple[pafs.FileSystem, str]]


@dataclass(frozen=True)
class GeneratedFile:
    """One file of the log: its table, its rows and its stored bytes."""

    table: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class GeneratedLog:
    """Where a log lies: one directory per table, plus the parameters and the log schema.

    Attributes:
        path: Directory of everything.
        tables: Table name -> its directory.
        schema: Path of the LogSchema's YAML file.
        rows, bytes: By table.
    """

    path: str
    tables: dict[str, str]
    schema: str
    rows: dict[str, int]
    bytes: dict[str, int]


def resolve(path: str) -> str:
    """An absolute path or URI, so that every process means the same place."""
    if "://" in path:
        # Spark and Arrow name the same store differently.
        return path.replace("s3a://", "s3://", 1)
    return str(Path(path).resolve())


def by_address(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of an address as this machine is set up, and the path inside it.

    Raises:
        StorageError: it cannot be opened.
    """
    try:
        system, root = pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"the place {path} cannot be opened: {error}") from None
    return system, root


def prepare(params: SynthParams, path: str, opener: Opener = by_address) -> None:
    """Make the directories, and refuse a place that holds anything but this very log.

    Raises:
        InputError: the directory holds something else.
        StorageError: it cannot be created.
    """
    system, root = opener(path)
    marker = f"{root}/{PARAMS_FILE}"
    try:
        if system.get_file_info(marker).type is pafs.FileType.File:
            with system.open_input_stream(marker) as stream:
                if stream.readall() == _marker(params):
                    return
            raise InputError(
                f"the directory {path} holds a log with other parameters",
                fix="Choose another directory, or delete this one.",
            )
        if system.get_file_info(pafs.FileSelector(root, allow_not_found=True)):
            raise InputError(f"the directory {path} is not empty", fix="Choose another directory.")
        for table in params.tables:
            system.create_dir(f"{root}/{table}")
        with system.open_output_stream(marker) as stream:
            stream.write(_marker(params))
    except OSError as error:
        raise StorageError(f"the directory {path} cannot be written: {error}") from None


def _marker(params: SynthParams) -> bytes:
    return json.dumps(params.model_dump(mode="json"), indent=2).encode()


def write_file(params: SynthParams, path: str, table: str, file: int, opener: Opener = by_address) -> GeneratedFile:
    """Write one file; doing it twice, or twice at once, leaves the same bytes.

    Args:
        params: The log.
        path: Directory of the log, prepared.
        table: One of ``params.tables``.
        file: Number of the file.
        opener: Opens the directory.

    Raises:
        StorageError: the file cannot be written.
    """
    system, root = opener(path)
    target = f"{root}/{table}/part-{file:05d}.parquet"
    rows = 0
    try:
        # Object stores show a stream's bytes when it is closed; locally a torn file would be visible, hence the name.
        local = isinstance(system, pafs.LocalFileSystem)
        place = f"{root}/{table}/_{file:05d}-{uuid4().hex}.inprogress" if local else target
        with (
            system.open_output_stream(place) as stream,
            pq.ParquetWriter(stream, arrow_schema(params, table), compression="zstd") as writer,
        ):
            for batch in batches(params, table, file):
                writer.write_batch(batch, row_group_size=batch.num_rows)
                rows += batch.num_rows
        if local:
            system.move(place, target)
        size = system.get_file_info(target).size
    except OSError as error:
        raise StorageError(f"the file {target} cannot be written: {error}") from None
    return GeneratedFile(table, rows, size)


def finish(params: SynthParams, path: str, files: list[GeneratedFile], opener: Opener = by_address) -> GeneratedLog:
    """Write the log schema beside the tables and sum up."""
    system, root = opener(path)
    with system.open_output_stream(f"{root}/{SCHEMA_FILE}") as stream:
        stream.write(params.log_schema().to_yaml().encode())
    return GeneratedLog(
        path=path,
        tables={table: f"{path}/{table}" for table in params.tables},
        schema=f"{path}/{SCHEMA_FILE}",
        rows={t: sum(f.rows for f in files if f.table == t) for t in params.tables},
        bytes={t: sum(f.bytes for f in files if f.table == t) for t in params.tables},
    )


def write_log(params: SynthParams, path: str | Path) -> GeneratedLog:
    """Write a log in this process.

    Args:
        params: The log.
        path: New directory, or one that holds this very log already.

    Raises:
        InputError: the directory holds something else.
        StorageError: a file cannot be written.
    """
    place = resolve(str(path))
    prepare(params, place)
    tasks = [(table, file) for table in params.tables for file in range(params.files)]
    return finish(params, place, [write_file(params, place, table, file) for table, file in tasks])
