"""Which segments a compaction rewrites, and in which of them events and their features go. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dedup_storage.dataset.upkeep.decay import UNREFERENCED, SegmentDecay

__all__ = ["Chosen", "chosen_segments"]


@dataclass(frozen=True)
class Chosen:
    """What is to be rewritten.

    Attributes:
        segments: Table -> segments to rewrite, at least one; ``unreferenced_rows`` of each are those that go.
        decayed: Table -> how many segments have decayed, also where none is rewritten.
        skipped: Table -> why none is.
    """

    segments: Mapping[str, list[SegmentDecay]]
    decayed: Mapping[str, int]
    skipped: Mapping[str, str]


def chosen_segments(
    measured: Mapping[str, Sequence[SegmentDecay]],
    events: Mapping[str, str],
    skip: Callable[[str], str | None],
    *,
    compact: bool = True,
) -> Chosen:
    """Choose the segments to rewrite.

    Features of an event go where the event goes, in the same version, and nowhere else: a later log may refer to an
    event that stayed.

    Args:
        measured: Table -> all of its segments.
        events: Tables with a row an event -> the table of these events, which may be the same.
        skip: Why a table that has decayed is left alone; ``None`` where it is not.
        compact: Rewrite whatever has decayed, not only segments that have events which go.
    """
    segments: dict[str, list[SegmentDecay]] = {}
    decayed: dict[str, int] = {}
    skipped: dict[str, str] = {}
    # Tables of events first: what goes of their features follows from them.
    for name in sorted(measured, key=lambda table: events.get(table, table) != table):
        listed = [_without_last(segment) for segment in measured[name]]
        if events.get(name, name) != name:
            going = {s.segment for s in segments.get(events[name], ()) if s.unreferenced_rows}
            listed = [_following(s) if s.segment in going else _whole(s) for s in listed]
        listed = [s for s in listed if (s.reasons if compact else UNREFERENCED in s.reasons)]
        decayed[name] = len(listed)
        reason = skip(name) if listed else None
        if reason is not None:
            skipped[name] = reason
        elif listed:
            segments[name] = listed
    # In the order in which they were measured.
    return Chosen({name: segments[name] for name in measured if name in segments}, decayed, skipped)


def _without_last(segment: SegmentDecay) -> SegmentDecay:
    """A segment of which nothing would be left keeps its rows; what else has decayed in it is judged."""
    return _whole(segment) if segment.unreferenced_rows >= segment.rows - segment.hidden_rows else segment


def _whole(segment: SegmentDecay) -> SegmentDecay:
    reasons = tuple(reason for reason in segment.reasons if reason != UNREFERENCED)
    return segment.model_copy(update={"unreferenced_rows": 0, "reasons": reasons})


def _following(segment: SegmentDecay) -> SegmentDecay:
    """A segment of features whose events go; whatever share of it they are, their rows do."""
    reasons = dict.fromkeys((*segment.reasons, UNREFERENCED)) if segment.unreferenced_rows else segment.reasons
    return segment.model_copy(update={"reasons": tuple(reasons)})
