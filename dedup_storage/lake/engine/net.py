"""What several Iceberg commits change together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dedup_storage.lake.engine.java import iterate

__all__ = ["Files"]


@dataclass
class Files:
    """Net change of several commits: Iceberg's file objects by their place.

    A file that one commit added and a later one took out again counts as neither. A deletion vector's place is its
    file and offset, for several lie in one file.
    """

    added: dict[str, Any] = field(default_factory=dict)
    removed: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
    unmarked: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, java: Any, snapshot_ids: Iterable[int]) -> Files:
        """What the snapshots changed, oldest first."""
        net, io = cls(), java.io()
        for snapshot_id in snapshot_ids:
            snapshot = java.snapshot(snapshot_id)
            _apply(net.removed, net.added, snapshot.removedDataFiles(io))
            _apply(net.added, net.removed, snapshot.addedDataFiles(io))
            _apply(net.unmarked, net.marks, snapshot.removedDeleteFiles(io))
            _apply(net.marks, net.unmarked, snapshot.addedDeleteFiles(io))
        for place in [p for p, dv in net.marks.items() if str(dv.referencedDataFile()) in net.removed]:
            del net.marks[place]
        return net


def _apply(into: dict[str, Any], against: dict[str, Any], files: Any) -> None:
    for file in iterate(files):
        place = str(file.location())
        if str(file.content()) != "DATA":
            place = f"{place}@{file.contentOffset()}"
        if place in against:
            del against[place]
        else:
            into[place] = file
