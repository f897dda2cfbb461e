"""The versions of a Delta dataset: a small Delta table of events beside its tables, read and written without Spark.

Delta's log is one line of commits for each table, and none spans tables. So what makes a version is an event of this
table, appended by one atomic commit:

``claim`` N
    version N is decided: its facts name the attempt whose staged files make it. Only one writer can append it.
``published`` N
    version N is complete: its body has the Delta version of every table. Readers look at these alone.
``abandoned`` N
    version N is given up: it is never published, and its number is not used again. Of ``published`` N and this, the
    table accepts one.
``undone`` N
    nothing is left of the abandoned version N; the body has the Delta version of each table that undid it.
``pin`` N
    a label that keeps version N.
``moved`` N
    appended with ``published`` N: the Delta versions that stand, from version N on, for those that were named before.
``tag`` N
    the name ``table/name`` of a table's Delta version N, outside of the dataset's versions; the greatest N counts.
``sample`` N
    the N-th record of a named sample; the greatest N counts.
``erasure`` N
    the N-th record of an erasure's run; the greatest N counts.
``dropped``
    the dataset is gone; its tables, which the body names, are being removed.

Exactly one ``claim`` of a number is accepted: each carries Delta's own application transaction, and of two commits
with the same one, made from one state of the log, the later is refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dedup_storage.errors import StorageError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.events import Versions, fold
from dedup_storage.lake.delta.opened import OpenedTables
from dedup_storage.lake.history import version_expired
from dedup_storage.lake.retries import small_commits
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["VERSIONS_TABLE", "VersionLog"]

VERSIONS_TABLE = "_versions"
_SCHEMA = pa.schema(
    [
        ("event", pa.string()),
        ("version", pa.int64()),
        ("at_ms", pa.int64()),
        ("label", pa.string()),
        ("body", pa.string()),
    ]
)
# Delta's application transaction of commits that rest on which versions there are: pins, expiry, rollbacks.
_PINS = "pins"
_FOREVER = "interval 36500 days"
# Small files of the table itself, one an event, before they are joined.
_MOST_FILES = 64


class VersionLog:
    """The table of events of one dataset.

    Args:
        uri: The dataset's folder.
        options: Of ``deltalake``.
        opened: What opens the tables of its lake.
    """

    def __init__(self, uri: str, options: Mapping[str, str] | None = None, opened: OpenedTables | None = None) -> None:
        self.uri, self._options = f"{uri}/{VERSIONS_TABLE}", dict(options or {})
        self._opened = OpenedTables(self._options) if opened is None else opened

    def create(self) -> None:
        """Create it, if it is not there."""
        from deltalake import DeltaTable

        DeltaTable.create(
            self.uri,
            schema=_SCHEMA,
            mode="ignore",
            configuration={"delta.logRetentionDuration": _FOREVER},
            storage_options=self._options,
        )

    def load(self) -> Versions:
        """Fold the events."""
        return fold(self._opened.rows(self.uri).to_pylist())

    def _fold(self, table: DeltaTable) -> Versions:
        return fold(table.to_pyarrow_table().to_pylist())

    def claim(self, version: int, facts: Mapping[str, str], restored: int | None = None) -> bool:
        """Decide a version; ``False`` when another run decided it, or this one would leave a gap.

        Args:
            version: Its number.
            facts: Of the run.
            restored: The version that it brings back: where that expires in the same moment, the claim is refused.
        """
        return self._append_once("claim", version, facts, restored=restored)

    def publish(self, version: int, body: Mapping[str, Any], moved: Mapping[str, Any] | None = None) -> bool:
        """Complete a version, and say which Delta versions stand for others from then on.

        Returns:
            ``False`` when another run did.
        """
        return self._append_once("published", version, body, moved)

    def abandon(self, version: int, body: Mapping[str, Any]) -> bool:
        """Give a decided version up; ``False`` when it was published, or given up, by another run."""
        return self._append_once("abandoned", version, body, once="published")

    def undone(self, version: int, body: Mapping[str, Any]) -> None:
        """Say that nothing is left of an abandoned version; twice is once."""
        self._append_once("undone", version, body, once=f"undone-{version}")

    def _append_once(
        self,
        event: str,
        version: int,
        body: Mapping[str, Any],
        moved: Mapping[str, Any] | None = None,
        once: str | None = None,
        restored: int | None = None,
    ) -> bool:
        """Append an event that excludes others of the name ``once`` (its own) for the same version, and the expiry of
        ``restored``."""
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError

        table, once = self._opened.take(self.uri), once or event
        last = table.transaction_version(once) or 0
        if last >= version if once.startswith("undone") else last != version - 1:
            return False
        transactions = [Transaction(once, version)]
        if restored is not None:
            if restored not in self._fold(table).published:
                return False
            transactions.append(self._next_pins(table))
        # The commit is checked against those that came after the state that was just looked at.
        properties = CommitProperties(app_transactions=transactions, max_commit_retries=30)
        try:
            self._write(table, event, version, None, body, properties, moved)
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            raise StorageError(
                f"the table of versions {self.uri} cannot be written, or did not answer: "
                f"{str(error).splitlines()[0][:300]}",
                fix="Run the job again with the same run id: it goes on, or finds that it is published.",
            ) from error
        return True

    def pin(self, version: int, label: str) -> None:
        """Keep a version under a label; twice is once.

        Raises:
            VersionNotFoundError: the version expired meanwhile.
        """
        for attempt in small_commits(_lost):
            with attempt:
                table = self._opened.take(self.uri)
                found = self._fold(table)
                if version not in found.published:
                    raise version_expired(self.uri.rsplit("/", 2)[-2], version)
                reached("pin:looked")
                if label not in found.pins.get(version, ()):
                    self._write(table, "pin", version, label, {}, self._pinning(table))

    def unpin(self, version: int, label: str) -> None:
        """Remove a version's label."""
        self._delete(f"event = 'pin' AND version = {int(version)} AND label = '{check_name(label, 'pin label')}'")

    @staticmethod
    def _next_pins(table: DeltaTable) -> Any:
        """The transaction of a commit that rests on which versions there are and which are needed: of two from one
        state of the log the later is refused."""
        from deltalake import Transaction

        return Transaction(_PINS, (table.transaction_version(_PINS) or 0) + 1)

    def _pinning(self, table: DeltaTable) -> Any:
        """Marks such a commit."""
        from deltalake import CommitProperties

        return CommitProperties(app_transactions=[self._next_pins(table)], max_commit_retries=0)

    def forget(self, versions: Collection[int]) -> list[int]:
        """Take published versions back, unless they are pinned or a decided rollback brings them back; what was decided
        of them stays known.

        Returns:
            Those that are gone. Pins of versions that are none go too.
        """
        for attempt in small_commits(_lost):
            with attempt:
                table = self._opened.take(self.uri)
                found = self._fold(table)
                reached("maintain:remembered")
                needed = found.pins.keys() | found.restored
                gone = sorted(v for v in versions if v in found.published and v not in needed)
                stray = [v for v in found.pins if v not in found.published]
                where = [
                    f"event = '{event}' AND version IN ({', '.join(str(int(v)) for v in listed)})"
                    for event, listed in (("published", gone), ("pin", stray))
                    if listed
                ]
                if where:
                    table.delete(" OR ".join(f"({text})" for text in where), commit_properties=self._pinning(table))
                return gone
        raise AssertionError("unreachable: tenacity reraises")

    def tag(self, table: str, name: str, snapshot_id: int) -> None:
        """Name a Delta version of a table; twice is once."""
        events = self._opened.take(self.uri)
        if self._fold(events).tags.get((table, name), -1) < snapshot_id:
            self._write(events, "tag", snapshot_id, f"{table}/{name}", {}, None)

    def untag(self, table: str, name: str) -> None:
        """Remove a name, if it is there."""
        if (table, name) in self.load().tags:
            self._delete(f"event = 'tag' AND label = '{_checked(table)}/{_checked(name)}'")

    def record_sample(self, name: str, text: str) -> None:
        """Set a sample's record."""
        events = self._opened.take(self.uri)
        number = self._fold(events).sample_numbers.get(check_name(name, "sample name"), 0) + 1
        self._write(events, "sample", number, name, {"record": text}, None)

    def drop_sample(self, name: str) -> None:
        """Remove a sample's records."""
        self._delete(f"event = 'sample' AND label = '{check_name(name, 'sample name')}'")

    def record_erasure(self, run_id: str, text: str) -> None:
        """Keep what is known of an erasure, in place of what was."""
        events = self._opened.take(self.uri)
        number = self._fold(events).erasure_numbers.get(run_id, 0) + 1
        self._write(events, "erasure", number, run_id, {"record": text}, None)

    def drop(self, tables: Sequence[str]) -> None:
        """Take the whole dataset back; its tables are removed after that."""
        self._write(self._opened.take(self.uri), "dropped", 0, None, {"tables": list(tables)}, None)

    def _delete(self, where: str) -> None:
        """Take events back; appends in between are no reason to fail."""
        for attempt in small_commits(_lost):
            with attempt:
                self._opened.take(self.uri).delete(where)

    def tidy(self) -> None:
        """Join the table's own small files when there are many."""
        if len(self._opened.load(self.uri).file_uris()) >= _MOST_FILES:
            self._opened.take(self.uri).optimize.compact()

    def _write(
        self,
        table: DeltaTable,
        event: str,
        version: int,
        label: str | None,
        body: Mapping[str, Any],
        properties: Any,
        moved: Mapping[str, Any] | None = None,
    ) -> None:
        from deltalake import write_deltalake

        now = time.time_ns() // 1_000_000
        made = {"event": event, "version": version, "at_ms": now, "label": label, "body": json.dumps(body)}
        more = [{**made, "event": "moved", "body": json.dumps(moved)}] if moved is not None else []
        rows = pa.Table.from_pylist([made, *more], schema=_SCHEMA)
        write_deltalake(table, rows, mode="append", commit_properties=properties)


def _lost(error: BaseException) -> bool:
    from deltalake.exceptions import CommitFailedError

    return isinstance(error, CommitFailedError)


def _checked(text: str) -> str:
    """A part of a tag's label, for a condition."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", text) is None:
        raise UsageError("a name holds characters that it may not", expected="letters, digits, _ and -", got=text[:80])
    return text
