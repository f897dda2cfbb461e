"""Runs whose end was not told yet: a small file each, so that whoever goes on with a killed run tells its end.

A file holds names and times alone. It is there from before a run's START until its COMPLETE or FAIL was taken.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from dedup_storage.config import Settings
from dedup_storage.lake.folders import delete_files, list_files, read_text, write_text
from dedup_storage.lineage.model import Verb

__all__ = ["Journal", "Record"]


@dataclass(frozen=True)
class Record:
    """One run under way, as its events name it.

    Attributes:
        run: The id of its events, a UUID.
        job: The job's name in its namespace.
        begun: When it began, ISO 8601 in UTC.
        run_id: The toolkit's run, where the user named it.
        started: Its START was taken by the receiver.
        ended: How it ended, where nobody took that.
    """

    run: str
    job: str
    begun: str
    run_id: str | None = None
    started: bool = False
    ended: str | None = None

    @property
    def age(self) -> timedelta:
        """Time since it began."""
        return datetime.now(UTC) - datetime.fromisoformat(self.begun)


class Journal:
    """The runs under way on one dataset.

    Args:
        settings: Settings of the lake.
        dataset: The dataset.

    Raises:
        ConfigError: no folder is known for it.
    """

    def __init__(self, settings: Settings, dataset: str) -> None:
        self._folder = f"{settings.lineage_folder.rstrip('/')}/{dataset}"
        self._properties = settings.catalog.properties

    @staticmethod
    def key(verb: Verb, run: str) -> str:
        """The file of a run: the same for everybody who is given its run id; its own where nobody can give it."""
        named = json.dumps([verb.name, verb.run_id]) if verb.run_id is not None else run
        return f"{sha256(named.encode()).hexdigest()[:32]}.json"

    def find(self, key: str) -> Record | None:
        """The run under way in a file, if it is there.

        Raises:
            StorageError: the folder cannot be read.
        """
        text = read_text(f"{self._folder}/{key}", self._properties)
        return Record(**json.loads(text)) if text else None

    def write(self, key: str, record: Record) -> None:
        """Note a run under way.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_text(f"{self._folder}/{key}", json.dumps(asdict(record)), self._properties)

    def remove(self, key: str) -> None:
        """Forget a run, if it is there."""
        delete_files(self._folder, [key], self._properties)

    def left(self, age: timedelta) -> dict[str, Record]:
        """Runs that nobody is at work on, by their files: they ended, or began longer ago than ``age``.

        A file that is none of this release's is passed over: it would keep every other run from its end.
        """
        keys = (entry.base_name for entry in list_files(self._folder, self._properties))
        found: dict[str, Record | None] = {}
        for key in keys:
            if key.endswith(".json"):
                with suppress(ValueError, TypeError):
                    found[key] = self.find(key)
        return {
            key: record
            for key, record in found.items()
            if record is not None and (record.ended is not None or record.age > age)
        }
