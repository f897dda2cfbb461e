"""Where a log was read from, as it was then: what tells it from the same place with other rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256

from dedup_storage.lake.folders import Store
from dedup_storage.sources.address import Address, Kind, find_address
from dedup_storage.sources.foreign import delta_input
from dedup_storage.words import counted, human_bytes

__all__ = ["Origin"]


@dataclass(frozen=True)
class Origin:
    """Files or a table.

    Attributes:
        text: Files by number, size and a digest of their places, sizes and times of change; ``None`` for a table, whose
            state its catalog knows, and where files have no time of change and no name of their own.
        table: The table's name.
        place: The files' folder, pattern or file, absolute; it tells no log from another.
    """

    text: str | None = None
    table: str | None = None
    place: str | None = field(default=None, compare=False)

    @classmethod
    def find(cls, source: str, format: str | None = None, store: Store | None = None) -> Origin:
        """The origin of a source by name, no row of it read.

        Args:
            source, format, store: As for ``open_source``.

        Raises:
            InputError: there is nothing, or it is of a kind that is not read.
        """
        address = find_address(source, format, store)
        if address.kind is Kind.DELTA:
            address = replace(address, files=delta_input(address.place, address.store)[0])
        return cls.of(address)

    @classmethod
    def of(cls, address: Address) -> Origin:
        """The origin of what an address names."""
        if address.kind is Kind.TABLE:
            return cls(table=address.source)
        files, place = address.files, address.place
        if not files:
            return cls(place=place)
        told = sorted(f"{f.path.removeprefix(address.place)} {f.size_bytes} {f.changed_ns}" for f in files)
        total = sum(f.size_bytes or 0 for f in files)
        digest = sha256("\n".join(told).encode()).hexdigest()[:16]
        return cls(text=f"{counted(len(files), 'file')}, {human_bytes(total)} ({digest})", place=place)
