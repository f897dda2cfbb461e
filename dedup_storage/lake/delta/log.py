"""Delta's own log through Spark: write files without committing them, commit them later.

Delta's writer is two steps: files are written into the table's folder and described by actions, then the actions are
committed. A run's staged data is what lies between the two: files that no version of the table names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dedup_storage.lake.delta.files import exchanged_actions, marks_rows, restored_actions
from dedup_storage.lake.delta.layout import expressions_of, generating
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.engine.delta import DeltaLog
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.spark.errors import JAVA_ERRORS, java_class, root_message

__all__ = ["DELTA_WRITES", "TableLog"]

# Delta takes the codec and the timestamps' type from the session that writes, not from the table.
DELTA_WRITES = {
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}

# Delta's errors for a commit that others' commits refuse, by class.
_RACES = {
    f"{prefix}{name}Exception"
    for prefix in ("", "Delta")
    for name in (
        "ConcurrentTransaction",
        "ConcurrentAppend",
        "ConcurrentDeleteDelete",
        "ConcurrentDeleteRead",
        "ConcurrentWrite",
        "MetadataChanged",
    )
}


class TableLog(DeltaLog):
    """One table's log, whose lost races can be run again."""

    def restored(self, ref: DeltaRef, target: Iterable[str]) -> list[str]:
        """The actions that give the newest version the files of another, without the rows that another tool hid.

        Args:
            ref: The table.
            target: The actions that add the files wanted, as JSON.
        """
        if marks_rows(ref):
            return exchanged_actions(target, self.files_at(int(ref.load().version())))
        return restored_actions(ref, target)

    def generated_anew(self, generated: Mapping[str, str] | None, version: int | None = None) -> list[str]:
        """The action that makes generated columns of the newest version by other expressions; none, where they are.

        Args:
            generated: Column -> SQL expression; ``None`` takes those that a Delta version has.
            version: That version.
        """
        now = self.metadata()
        if generated is None:
            generated = expressions_of(self.metadata(version))
        made = generating(now, generated)
        return [] if expressions_of(made) == expressions_of(now) else [made]

    def commit(
        self, actions: Sequence[str], app: str, number: int, *, written: bool = False, at: int | None = None
    ) -> bool:
        """See ``DeltaLog``.

        Raises:
            LostRaceError: another commit came between.
        """
        try:
            if not super().commit(actions, app, number, written=written, at=at):
                raise LostRaceError(f"the log of {self.uri} went on after version {at}")
        except JAVA_ERRORS as error:
            if _RACES & java_class(error):
                raise LostRaceError(root_message(error)) from error
            raise
        return True
