"""A sample of whole users drawn by Spark, for logs that are too much to read on one machine.

The users are those that ``report.select.choose_users`` takes: Spark finds the distinct users in a scan of one column,
and the same function chooses among them. A second scan keeps their rows, which are written to scratch as Parquet, each
with its file and row number, so that the order of arrival is known whatever Spark does with the rows.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.dedup.hashing import hash_column
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.engine.stores import session_store
from dedup_storage.report.draw.select import Drawn, choose_users, no_users
from dedup_storage.report.draw.users import PLACE
from dedup_storage.report.parquet.dataset_files import folder_files
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.schema import LogSchema
from dedup_storage.sources.frames import files_frame
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row

__all__ = ["SparkDraw"]

_FILE, _ROW = "_metadata.file_path", "_metadata.row_index"
_PATH, _USER = "_dedup_path", "_dedup_user"


class SparkDraw:
    """Draws by Spark; what it writes is removed at the end of the ``with`` block.

    Args:
        spark: Session that can read the log's files.
        scratch: Folder, which this machine and the cluster both reach, for the sample's rows.

    Example:
        >>> with SparkDraw(spark, "s3://lake/scratch") as draw:                     # doctest: +SKIP
        ...     estimate_savings(input_files("s3://logs/clicks"), schema, engine=draw)
    """

    def __init__(self, spark: SparkSession, scratch: str) -> None:
        self._spark = run_session(spark)
        # The pure sampler reads microseconds too; Spark's default is a type of 96 bits.
        self._spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        self._scratch = f"{scratch.rstrip('/')}/sample-{uuid.uuid4().hex}"
        self._tables = 0
        self._store = session_store(spark)

    def __enter__(self) -> SparkDraw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        filesystem, path = self._store(self._scratch)
        if filesystem.get_file_info(path).type is pafs.FileType.Directory:
            filesystem.delete_dir(path)

    def rows_per_request(self, table: TableFiles, schema: LogSchema) -> float:
        """B / R of the whole table, from its key columns; R is known to some percent."""
        requests = F.approx_count_distinct(F.xxhash64(*schema.request_key)).alias("requests")
        with translated():
            row = only_row(self._read(table).agg(F.count(F.lit(1)).alias("rows"), requests))
        return float(row["rows"]) / max(1, int(row["requests"]))

    def __call__(self, table: TableFiles, user: str, share: float, columns: list[str]) -> Drawn:
        """The rows of a share of the users.

        Raises:
            InputError: the share holds no user.
            DedupStorageError: Spark cannot read the files or write to scratch.
        """
        self._tables += 1
        place = f"{self._scratch}/{self._tables}"
        frame = self._read(table)
        with translated():
            chosen = _chosen(frame, user, share)
            rows = frame.join(F.broadcast(chosen), F.col(user).eqNullSafe(F.col(_USER)), "left_semi")
            shown = [F.col(c) for c in columns if c in frame.columns]
            placed = [F.xxhash64(_FILE).alias(PLACE[0]), F.col(_ROW).alias(PLACE[1]), F.col(_FILE).alias(_PATH)]
            rows.select(*shown, *placed).write.parquet(place)
            files = self._spark.read.parquet(place).select(_PATH, PLACE[0]).distinct()
            # At most one row for each file of the table, whose names are here already.
            hashes = {_plain(row[_PATH]): int(row[PLACE[0]]) for row in files.collect()}
        if not hashes:
            raise no_users(share)
        numbers = {_plain(file.path): number for number, file in enumerate(table.files)}
        return Drawn(folder_files(place, self._store), {value: numbers[path] for path, value in hashes.items()})

    def _read(self, table: TableFiles) -> DataFrame:
        if table.arrow_schema is None:
            return self._spark.read.option("mergeSchema", "true").parquet(*(f.path for f in table.files))
        return files_frame(self._spark, table.files, table.arrow_schema, table.name)


def _chosen(frame: DataFrame, user: str, share: float) -> DataFrame:
    """The chosen users, each once. They fit into memory, since the rows of their sample do."""

    def choose(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.filter(pa.array(choose_users(hash_column(batch.column(0)), share)))

    users = frame.select(F.col(user).alias(_USER)).distinct()
    return users.mapInArrow(choose, users.schema)


def _plain(path: str) -> str:
    """A path as it is told apart here: Spark writes ``file:///a%20b`` for ``/a b``."""
    return re.sub(r"^file:/+", "/", unquote(path)) if path.startswith("file:") else path
