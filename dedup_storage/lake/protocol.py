"""What the toolkit asks of a table format; Iceberg and Delta give it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dedup_storage.errors import UsageError
from dedup_storage.lake.branch import Branch
from dedup_storage.lake.facts import Facts
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.runs import Run, Staged, named_run
from dedup_storage.lake.samples import SampleTables
from dedup_storage.lake.segments import MAINTAIN, Segment
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.lake.upkeep import Erasure, Policy, Upkeep
from dedup_storage.lake.wholeness import Damage, StoredFiles
from dedup_storage.layout import DatasetSpec, TableSpec
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.table_properties import Dictionaries

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["TAKE_IN", "UNTAGGED", "Run", "Staged", "TableFormat", "require_segments", "taking_in"]

# Claim fact: tables that the version leaves out, comma-separated.
UNTAGGED = "untagged"
# Claim fact ``kind`` of a version that takes in what other tools' compaction left.
TAKE_IN = "take-in"


def require_segments(what: str, spec: DatasetSpec | None) -> None:
    """Refuse an operation on segments where a log lies as it was found.

    Raises:
        UsageError: the dataset was adopted.
    """
    if spec is not None and spec.adopted:
        raise UsageError(
            f"{what} needs segments, and the log of {spec.name} lies as it was adopted",
            fix="Convert it: dedup-storage convert.",
        )


def taking_in(base: int) -> Run:
    """A run that takes in what other tools' compaction left after a version."""
    run_id = named_run(None, "maintain")
    facts = {"mode": MAINTAIN, "kind": TAKE_IN}
    return Run(run_id=run_id, job="maintain", attempt=f"{run_id}/1", base=base, segments={}, facts=facts)


class TableFormat(SampleTables, Protocol):
    """Tables of one format: stage data unseen, publish it together, read any version.

    Attributes:
        name: ``iceberg`` or ``delta``.
        marks_rows: Whether rows can be hidden without writing their file anew (merge-on-read).
    """

    name: str
    marks_rows: bool

    def require(self, what: str, spec: DatasetSpec | None = None) -> None:
        """Refuse an operation that the format, or a dataset, does not have.

        Args:
            what: The operation, for the message.
            spec: The dataset.

        Raises:
            UsageError: it does not have it.
        """

    def find(self, dataset: str) -> DatasetMetadata | None:
        """The dataset's tables, or ``None`` when there is no such dataset."""

    def metadata(self, dataset: str) -> DatasetMetadata:
        """The dataset's tables now."""

    def state(self, table: str) -> int | None:
        """The newest state of any table of the catalog, ``namespace.table``; ``None`` when it is empty or not there."""

    def settle(self, spec: DatasetSpec) -> DatasetMetadata:
        """Finish a publication that another run decided and did not complete; the tables after that."""

    def take_in(self, spec: DatasetSpec, settled: DatasetMetadata | None = None) -> DatasetMetadata:
        """Publish what other tools' compaction left as a version of its own, if there is such; the tables after that.

        A version's segments are rewritten from its own files. Once another tool has joined these, what was made of
        them does not fit any more.

        Args:
            spec: The dataset.
            settled: Its tables as ``settle`` just gave them; ``None`` looks first.
        """

    def bucket(self, spec: DatasetSpec) -> Column:
        """The user bucket of a row, as the tables are partitioned."""

    def partitions_of(self, kind: str, place: str, schema: LogSchema) -> tuple[DateGrain, int]:
        """Date grain and user buckets by which a log that is to be adopted is partitioned; 1 without buckets.

        Raises:
            InputError: it is partitioned by something else.
        """

    def lies_at(self, dataset: str, place: str) -> str:
        """Where a table that is to be adopted lies now, ``namespace.table``: an adoption as the same dataset that was
        stopped may have moved it."""

    def adopt(self, spec: DatasetSpec, kind: str, place: str, columns: Mapping[str, str], run: Run) -> None:
        """Make a log that is there version 1 of a dataset, without copying it.

        Args:
            spec: The dataset, in flat layout.
            kind: ``iceberg``, ``delta`` or ``parquet``.
            place: ``namespace.table``, or the folder.
            columns: Column -> Spark DDL type.
            run: The run, for the version's facts.
        """

    def create(
        self, spec: DatasetSpec, columns: Mapping[str, str], *, dictionaries: Dictionaries | None = None
    ) -> None:
        """Create a dataset's tables, anchor last.

        Args:
            spec: The dataset.
            columns: Column -> Spark DDL type, system columns included.
            dictionaries: Table -> columns that take a dictionary: sequence columns, and of a table of events their
                elements.
        """

    def drop(self, spec: DatasetSpec) -> None:
        """Remove a dataset's data tables with their files: of a dataset that has no version."""

    def create_table(self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str]) -> None:
        """Create one table if it is not there."""

    def add_columns(self, spec: DatasetSpec, table: str, columns: Mapping[str, str]) -> None:
        """Add columns that feature groups are promoted to, null in every row; those that are there with the same type
        stay.

        Args:
            spec: The dataset.
            table: The table.
            columns: Column -> Spark DDL type.
        """

    def set_encodings(self, dataset: str, table: str, properties: Mapping[str, str]) -> None:
        """Set how a table's files are encoded from now on.

        Args:
            dataset, table: The table.
            properties: By Iceberg's names, ``write.parquet.…``.

        Raises:
            UsageError: the format has no such property of a table.
        """

    def extend(
        self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str], *, dictionaries: Collection[str] = ()
    ) -> None:
        """Add columns of the log to a table, null in every row, encoded as in a new table; those that are there with
        the same type stay. No version shows them before one that is described with them.

        Args:
            spec: The dataset's description with them.
            table: The table with them.
            columns: Column -> Spark DDL type. No version has one of them in another type.
            dictionaries: Sequence columns among them that take a dictionary.

        Raises:
            UsageError: a write that was refused left one with another type, and the format takes no column away.
            ConflictError: the same, and another run is at work with it.
        """

    def stage(
        self, spec: DatasetSpec, table: TableSpec, frame: DataFrame, run: Run, *, presorted: bool = False
    ) -> Staged:
        """Write rows that nobody sees yet.

        Args:
            spec: The dataset.
            table: Where to.
            frame: Rows with the table's columns.
            run: Attempt; ``replaced`` decides between append and replacement.
            presorted: Rows arrive distributed by segment and sorted, so nothing is shuffled again.
        """

    def stage_nothing(self, spec: DatasetSpec, table: TableSpec, run: Run) -> Staged:
        """Stage a snapshot without rows: a version's anchor where none of its rows change, or new facts of a table."""

    def staged_rows(self, spec: DatasetSpec, staged: Staged, run: Run) -> DataFrame:
        """The rows of a table as the attempt would leave them: of an append the new rows alone, of a replacement at
        least those of the segments it replaces."""

    def holds_staged(self, spec: DatasetSpec, staged: Staged, run: Run) -> bool:
        """Whether what an attempt staged in a table is there still."""

    def branch(self, dataset: str, table: str, run_id: str) -> Branch:
        """A run's branch of one table, where it keeps its finished parts."""

    def branches(self, dataset: str, table: str) -> list[str]:
        """Names of the branches of runs that are at work on a table, or were stopped there."""

    def read(self, dataset: str, table: str, snapshot_id: int, *, hidden: bool = False) -> DataFrame:
        """Rows of a snapshot; ``hidden``: with the columns of ``hidden``, by which its segments are found."""

    def hidden(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Stored columns that readers leave out -> the SQL expression that makes them."""

    def inside(self, spec: DatasetSpec, segments: Iterable[Segment]) -> str:
        """A SQL condition that holds for the rows of the segments and opens no other segment's files; for rows with
        the columns of ``hidden``."""

    def in_buckets(self, spec: DatasetSpec, buckets: Collection[int]) -> Column:
        """The same for user buckets of whatever date."""

    def file(self, spec: DatasetSpec) -> Column:
        """The data file of a row that was just read, as ``files`` names it."""

    def files(self, meta: DatasetMetadata, table: str, snapshot_id: int) -> DataFrame:
        """Files of a snapshot.

        Returns:
            ``date`` string and ``bucket`` int (the segment), ``content`` (0 data, else deletes), ``file_path``,
            ``rows``, ``bytes``; ``low`` and ``high``, the least and the greatest user.
        """

    def damages(self, meta: DatasetMetadata, version: int) -> list[Damage]:
        """What is wrong with a published version by the doing of others, from metadata and the list of its files.

        Args:
            meta: The dataset's tables.
            version: The version.
        """

    def stored_files(self, meta: DatasetMetadata, version: int) -> list[StoredFiles]:
        """Data files of each table of a version that can be listed."""

    def status(self, dataset: str) -> PublicationStatus:
        """What is under way on a dataset."""

    def abandon(self, spec: DatasetSpec, version: int) -> None:
        """Give up a version that is decided and not complete; what it brought already is taken out again.

        Raises:
            UsageError: the version is published, or was never decided.
        """

    def abandon_run(self, spec: DatasetSpec, run_id: str) -> tuple[str, ...]:
        """Give up what a run has staged and its finished parts, unless its version is decided; gives the tables.

        Args:
            spec: The dataset.
            run_id: The run, or the branch's name by which ``status`` calls parts that do not say whose they are.
        """

    def publish(
        self,
        spec: DatasetSpec,
        run: Run,
        members: Sequence[str],
        verify: Callable[[DatasetMetadata], None] | None = None,
    ) -> int:
        """Make an attempt's staged data visible in all tables at once; gives the version.

        Args:
            spec: The dataset.
            run: Attempt whose data was staged; the anchor is always among its tables.
            members: Tables that the attempt staged data in.
            verify: Called when other versions appeared since ``run.base``; raises if the run no longer fits.

        Raises:
            ConflictError: another run changed the same event dates first.
        """

    def rollback(self, spec: DatasetSpec, run: Run, target: int) -> int:
        """Publish a new version with the content of an older one; gives its number."""

    def pin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Keep a version through expiry under a label; twice is once."""

    def unpin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Remove a version's label, if it is there."""

    def tag(self, dataset: str, table: str, name: str, snapshot_id: int) -> None:
        """Name a snapshot so that expiry keeps it; naming it twice is once."""

    def untag(self, dataset: str, table: str, name: str) -> None:
        """Remove a snapshot's name, if it is there."""

    def upkeep(self, spec: DatasetSpec, policy: Policy) -> Upkeep:
        """Maintenance of a dataset as it is now.

        Args:
            spec: The dataset.
            policy: Which versions stay, and how long leftovers do.

        Raises:
            UsageError: the format cannot maintain the dataset.
        """

    def erasure(self, spec: DatasetSpec, users: DataFrame, run_id: str, facts: Facts | None = None) -> Erasure:
        """The erasure of some users from a dataset.

        Args:
            spec: The dataset.
            users: The users, distinct, one column with the user column's name.
            run_id: The run; the same one goes on where it was killed.
            facts: Facts to keep with the version that it publishes.
        """

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged data."""
