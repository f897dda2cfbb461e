"""Units of a plan, their keys read when one is asked for, and kept as long as there is room."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

from dedup_storage.reader.decode.merged import AnyUnit
from dedup_storage.reader.open.index import SegmentIndexer
from dedup_storage.reader.open.sections import PlannedUnit, Section

__all__ = ["UnitIndex"]

# Bytes of indexes that are kept; units at work are held by those who read them.
_KEPT_BYTES = 32 << 20


class UnitIndex(Sequence[AnyUnit]):
    """Units by number; several threads may ask.

    Args:
        indexer: Reads keys.
        sections: What is matched together.
        places: Section of each unit, and its place there; ``None`` takes all.
    """

    def __init__(
        self, indexer: SegmentIndexer, sections: Sequence[Section], places: Sequence[tuple[int, int]] | None = None
    ) -> None:
        self.indexer, self._sections = indexer, tuple(sections)
        if places is None:
            places = [(s, u) for s, section in enumerate(self._sections) for u in range(len(section.planned))]
        self._places = tuple(places)
        self._kept: OrderedDict[int, tuple[int, Sequence[AnyUnit]]] = OrderedDict()
        self._bytes = 0
        # Whether any is being decoded in this process; for who begins to.
        self.decoding = False
        self._unlock()

    def _unlock(self) -> None:
        self._lock = threading.Lock()
        self._reading: dict[int, threading.Lock] = {}
        # Last: whoever finds the process to be this one finds locks of its own.
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # What was read stays behind: a spawned worker reads the keys of its own units.
        return {"indexer": self.indexer, "sections": self._sections, "places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        UnitIndex.__init__(self, **state)

    @property
    def planned(self) -> list[PlannedUnit]:
        """The units, as they were planned before any key was read."""
        return [self._sections[section].planned[place] for section, place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, unit: int) -> AnyUnit: ...
    @overload
    def __getitem__(self, unit: slice) -> Sequence[AnyUnit]: ...
    def __getitem__(self, unit: int | slice) -> AnyUnit | Sequence[AnyUnit]:
        if isinstance(unit, slice):
            return [self[number] for number in range(*unit.indices(len(self)))]
        section, place = self._places[unit]
        return self._section(section)[place]

    def __iter__(self) -> Iterator[AnyUnit]:
        return (self[unit] for unit in range(len(self)))

    def _section(self, number: int) -> Sequence[AnyUnit]:
        if self._process != os.getpid():
            # Forked: nobody in this process will open a lock that another process's thread had closed.
            self._unlock()
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found[1]
            reading = self._reading.setdefault(number, threading.Lock())
        with reading:
            with self._lock:
                found = self._kept.get(number)
            if found is not None:
                return found[1]
            units = self.indexer.index(self._sections[number])
            self._keep(number, units)
            return units

    def _keep(self, number: int, units: Sequence[AnyUnit]) -> None:
        size = sum(unit.index_bytes for unit in units)
        with self._lock:
            self._kept[number] = (size, units)
            self._bytes += size
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                _, (freed, _) = self._kept.popitem(last=False)
                self._bytes -= freed
            self._reading.pop(number, None)

    def visit(self) -> Iterator[AnyUnit]:
        """All units in order; the keys of a few sections are read at a time."""
        workers = min(8, os.cpu_count() or 1, max(len(self._sections), 1))
        wanted = list(dict.fromkeys(section for section, _ in self._places))
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="dedup-index") as pool:
            for begin in range(0, len(wanted), workers):
                some = wanted[begin : begin + workers]
                found = dict(zip(some, pool.map(self._section, some), strict=True))
                yield from (found[section][place] for section, place in self._places if section in found)

    def only(self, units: Sequence[int]) -> UnitIndex:
        """Some of the units, numbered anew; what was read stays."""
        chosen = UnitIndex(self.indexer, self._sections, [self._places[unit] for unit in units])
        chosen._kept, chosen._bytes = self._kept, self._bytes
        return chosen
