"""Kept versions of a Delta table made anew: what each holds is committed once more, with other files in place of some.

A Delta version cannot be changed. So an erasure commits the content of every kept one again, oldest first and today's
last, without the files that are to go, and one event says which Delta versions stand for which from then on. After
that nothing needs the log before the first of them: with a checkpoint there it is cut off, and with it the bounds of
ids that it told of every file there ever was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dedup_storage.errors import StorageError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import delete_files, list_files, open_folder, read_text

__all__ = [
    "LOG_FOLDER",
    "RELAY",
    "FilesAnew",
    "Relay",
    "checkpoints",
    "cut_log",
    "log_versions",
    "named_files",
    "relay_table",
]

# Kind of a version whose tables' kept versions are made anew.
RELAY = "relay"
LOG_FOLDER = "_delta_log"
# Below it: parts of checkpoints of the second form, which have actions that add files.
_SIDECARS = "_sidecars"
# Delta's files of one version (or of a range, compacted): commits, checksums, checkpoints.
_LOG_FILE = re.compile(r"(\d{20})(?:\.\d{20})?\.(?:json|crc|compacted\.json|checkpoint\..*parquet|checkpoint\..*json)")


@dataclass(frozen=True)
class FilesAnew:
    """Files that kept versions hold together or not at all, and what takes their place.

    Attributes:
        paths: The files, by their places in the table's folder.
        actions: Delta's actions that add the new ones, as JSON.
    """

    paths: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Relay:
    """How one table's kept versions are made anew.

    Attributes:
        table: Table name.
        snapshots: Their Delta versions, the one that is to be the newest last; none for a table that no version names.
        groups: What is exchanged.
    """

    table: str
    snapshots: tuple[int, ...] = ()
    groups: tuple[FilesAnew, ...] = field(default=())

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Relay:
        """From ``to_json``."""
        found = json.loads(text)
        groups = tuple(FilesAnew(tuple(g["paths"]), tuple(g["actions"])) for g in found["groups"])
        return cls(found["table"], tuple(found["snapshots"]), groups)

    def content(self, actions: Iterable[str]) -> list[str]:
        """The actions that add a version's files, with what takes their place."""
        by_path = {json.loads(action)["add"]["path"]: action for action in actions}
        for group in self.groups:
            if group.paths and group.paths[0] in by_path:
                for path in group.paths:
                    by_path.pop(path, None)
                by_path |= {json.loads(action)["add"]["path"]: action for action in group.actions}
        return list(by_path.values())


def relay_table(
    ref: DeltaRef,
    log: TableLog,
    relay: Relay,
    markers: Sequence[tuple[str, int]],
    applied: Callable[[DeltaRef, str, int], int | None],
) -> list[int]:
    """Commit a table's kept versions again, each once; gives their new Delta versions in the order of the relay.

    Args:
        ref, log: The table.
        relay: What to do.
        markers: Application and number of the Delta transaction of each commit.
        applied: Finds the Delta version that brought a transaction.
    """
    made = []
    for number, (app, transaction) in enumerate(markers):
        if applied(ref, app, transaction) is None:
            target = log.files_at(relay.snapshots[number]) if relay.snapshots else []
            log.commit(log.restored(ref, relay.content(target)), app, transaction, written=True)
        found = applied(ref, app, transaction)
        if found is None:
            raise StorageError(f"a version of {relay.table} was not made anew", fix="Run the job again.")
        made.append(found)
        reached("relay:made")
    return made


def log_versions(ref: DeltaRef, properties: Mapping[str, str]) -> dict[str, int]:
    """Places in a table's log of its files -> the Delta version each belongs to; of a range, the first."""
    found = {}
    for place in _log_places(ref, properties):
        above, _, name = place.rpartition("/")
        match = _LOG_FILE.fullmatch(name)
        if match is not None and above in ("", _SIDECARS):
            found[place] = int(match.group(1))
    return found


def checkpoints(ref: DeltaRef, properties: Mapping[str, str]) -> list[str]:
    """Places of the Parquet files below a table's log, whether a checkpoint names them or not."""
    places = (place for place in _log_places(ref, properties) if place.endswith(".parquet"))
    return [f"{ref.uri}/{LOG_FOLDER}/{place}" for place in places]


def _log_places(ref: DeltaRef, properties: Mapping[str, str]) -> Iterator[str]:
    """Places, below its folder, of all files of a table's log."""
    folder = f"{ref.uri}/{LOG_FOLDER}"
    _, root = open_folder(folder, properties)
    return (file.path[len(root) :].strip("/") for file in list_files(folder, properties))


def named_files(ref: DeltaRef, properties: Mapping[str, str]) -> set[str]:
    """Every file that a table's log names: in a commit that is there, or in its oldest version that can be read."""
    found: set[str] = set()
    versions = log_versions(ref, properties)
    for name in (n for n in versions if n.endswith(".json")):
        for line in (read_text(f"{ref.uri}/{LOG_FOLDER}/{name}", properties) or "").splitlines():
            add: dict[str, Any] | None = json.loads(line).get("add")
            if add is not None:
                found.add(str(add["path"]))
    readable = [v for n, v in versions.items() if "checkpoint" in n and not n.startswith(_SIDECARS)]
    return found | (set(live_files(ref, min(readable)).paths) if readable else set())


def cut_log(ref: DeltaRef, log: TableLog, oldest: int, properties: Mapping[str, str]) -> int:
    """Remove a table's log before a version that must stay readable; gives the number of files removed."""
    old = [name for name, version in log_versions(ref, properties).items() if version < oldest]
    if not old:
        return 0
    log.checkpoint(oldest)
    reached("relay:checkpoint")
    # What names sidecars goes first: without them it could not be read.
    old.sort(key=lambda place: place.startswith(_SIDECARS))
    # Hadoop keeps a checksum beside each file of a local disk.
    checksums = [f"{above}{slash}.{name}.crc" for above, slash, name in (place.rpartition("/") for place in old)]
    return delete_files(f"{ref.uri}/{LOG_FOLDER}", [*old, *checksums], properties)
