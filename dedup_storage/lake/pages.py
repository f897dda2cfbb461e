"""Every page of a version's files, read by the session's tasks: is it what was written? By its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_storage.errors import StorageError
from dedup_storage.lake.credentials import Client, FileAccess
from dedup_storage.lake.retries import is_refusal, is_transient
from dedup_storage.lake.wholeness import Damage, StoredFiles
from dedup_storage.words import counted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["page_damages"]

# Decoded bytes that a task holds at a time: rows of long histories are few, those of impressions many.
_BYTES = 32 * 1024**2
# Files of a task, where there are many: it is done in a minute or two, so that one that fails costs little.
_FILES_PER_TASK, _MOST_TASKS = 16, 20_000
_FOUND = "owner int, place string, kind string, found string"


def page_damages(spark: SparkSession, stored: Sequence[StoredFiles]) -> list[Damage]:
    """Files with other rows than their table says, or with a page that is not what was written.

    Spark, Iceberg and Delta write a CRC-32 with each page (Parquet's ``PageHeader.crc``); of a file written by another
    tool without one it is only seen whether its pages can be decoded. A file that is gone is told elsewhere.

    Args:
        spark: The session: its tasks read the files.
        stored: Files of each table.

    Raises:
        StorageError: some could not be read, which says nothing of them.
    """
    files = [(owner, place, rows) for owner, each in enumerate(stored) for place, rows in each.rows.items()]
    if not files:
        return []
    tables = [each.files for each in stored]

    def inspect(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for file in batch.to_pylist():
                damage = _inspected(tables[file["owner"]], file["place"], file["rows"])
                if damage is not None:
                    row = {"owner": file["owner"], "place": file["place"], "kind": damage[0], "found": damage[1]}
                    yield pa.RecordBatch.from_pylist([row], _ARROW)

    parallel = min(len(files), spark.sparkContext.defaultParallelism)
    tasks = max(parallel, min(len(files) // _FILES_PER_TASK, _MOST_TASKS))
    listed = spark.createDataFrame(files, "owner int, place string, rows bigint").repartition(tasks)
    found = listed.mapInArrow(inspect, _FOUND).orderBy("owner", "place").collect()
    unread = [row for row in found if row["kind"] == _UNREAD]
    if unread:
        raise StorageError(
            f"{counted(len(unread), 'file')} of {len(files):,} could not be read, so that nothing is said of them: "
            f"{unread[0]['found']}",
            fix="Check again when storage answers.",
        )
    told = [(row["kind"], stored[row["owner"]].table, row["place"], row["found"]) for row in found]
    return [Damage(kind, table, f"{_EXPECTED[kind]} the file {place}", text) for kind, table, place, text in told]


_ARROW = pa.schema([("owner", pa.int32()), ("place", pa.string()), ("kind", pa.string()), ("found", pa.string())])
_EXPECTED = {"footers": "the rows of", "pages": "the pages of"}
# No kind of damage: a file that storage did not give.
_UNREAD = "unread"


def _inspected(access: FileAccess, place: str, rows: int) -> tuple[str, str] | None:
    """What is wrong with a file: kind of damage, and what was found."""

    def read(client: Client) -> tuple[str, str] | None:
        with client.new_input(place).open() as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            if file.metadata.num_rows != rows:
                return "footers", f"{file.metadata.num_rows:,} rows instead of {rows:,}"
            try:
                _decode(file)
            except (OSError, pa.ArrowException) as error:
                if is_transient(error) or is_refusal(error):
                    raise
                return "pages", f"a page that is not what was written: {str(error).splitlines()[0][:120]}"
        return None

    try:
        return access.read(f"the file {place} was read", read)
    except FileNotFoundError:
        return None
    except StorageError as error:
        return _UNREAD, error.what
    except (OSError, pa.ArrowException) as error:
        return "footers", f"a footer that cannot be read: {str(error).splitlines()[0][:120]}"


def _decode(file: pq.ParquetFile) -> None:
    """Decode all pages, holding few of the rows."""
    metadata = file.metadata
    decoded = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows = max(1, _BYTES * metadata.num_rows // max(1, decoded))
    for _ in file.iter_batches(batch_size=rows, use_threads=False):
        pass
