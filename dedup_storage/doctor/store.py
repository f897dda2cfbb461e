"""Probes of the store that tables lie in, and of the two clocks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from dedup_storage.lake.folders import delete_folder, list_files, open_folder, read_text, write_text
from dedup_storage.lake.probing import SCRATCH_PREFIX, STORE_WRITE, Finding, Probes, State, without_scratch
from dedup_storage.words import counted

__all__ = ["take_store"]

_KEYS = "Check the address, and the store's keys: catalog.properties (s3.*), or the variables that the store knows."
_RIGHTS = "Give whoever runs this the right to read, list and delete there too."
# A store refuses requests signed a quarter of an hour off; keys that are handed out end by its clock.
_MOST_SECONDS = 60


def take_store(
    place: str | None, properties: Mapping[str, str], probes: Probes, *, failing: State = State.MISSING
) -> list[str]:
    """Take the probes; gives what could not be removed.

    Args:
        place: The folder below which tables lie; ``None`` where nobody knows it.
        properties: Of the catalog; those of the store are used.
        probes: Takes the results.
        failing: How it counts when the store refuses.
    """
    folder = f"{place}/{SCRATCH_PREFIX}{uuid.uuid4().hex[:8]}"
    file, text = f"{folder}/probe.txt", uuid.uuid4().hex

    def write() -> Finding | str:
        if place is None:
            return Finding("only the catalog knows where tables lie, and it did not say", State.MISSING)
        write_text(file, text, properties)
        return f"below {without_scratch(place)}"

    def read() -> Finding | str:
        if read_text(file, properties) == text:
            return "the same bytes"
        return Finding("other bytes than were written", State.MISSING, _RIGHTS)

    def listed() -> Finding | str:
        found = list_files(folder, properties)
        if [entry.base_name for entry in found] == ["probe.txt"]:
            return "the file that was written"
        return Finding(f"{counted(len(found), 'file')} where one was written", State.MISSING, _RIGHTS)

    def clock() -> Finding | str:
        filesystem, path = open_folder(file, properties)
        changed = filesystem.get_file_info(path).mtime_ns
        if changed is None:
            return Finding("the store does not tell when a file was written", State.WARNING)
        apart = changed / 1e9 - written
        if abs(apart) <= _MOST_SECONDS:
            return f"{abs(apart):.0f} s apart"
        return Finding(
            f"the store's is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's",
            State.WARNING,
            "Set this machine's clock by a time server: keys, and the age of leftovers, are judged by both.",
        )

    def delete() -> Finding | str:
        delete_folder(folder, properties)
        if not list_files(folder, properties):
            return "gone"
        return Finding("the file is there still", State.MISSING, _RIGHTS)

    written = time.time()
    try:
        probes.take(STORE_WRITE, write, remedy=_KEYS, failing=failing)
        probes.take("store: read", read, remedy=_RIGHTS, needs=(STORE_WRITE,), failing=failing)
        probes.take("store: list", listed, remedy=_RIGHTS, needs=(STORE_WRITE,), failing=failing)
        probes.take("clock", clock, needs=(STORE_WRITE,), failing=failing)
        gone = probes.take("store: delete", delete, remedy=_RIGHTS, needs=(STORE_WRITE,), failing=failing)
    except BaseException:
        # Interrupted: nothing is told any more, and nothing may stay.
        delete_folder(folder, properties)
        raise
    return [] if gone or not probes.works(STORE_WRITE) else [f"the folder {folder}"]
