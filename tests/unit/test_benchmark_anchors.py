"""What the form of MLPerf's data holds, by plain counting."""

from __future__ import annotations

from benchmarks._anchors import Anchors, held


def test_events_that_a_history_holds() -> None:
    form = Anchors(users=12, median=40, sigma=1.2, most=500, window=16, every=9)
    offsets, columns = form.events()
    users, chosen, lengths = form.anchors(offsets)
    seen: set[int] = set()
    for number, length in zip(chosen.tolist(), lengths.tolist(), strict=True):
        seen.update(range(number - length, number))
    assert len(seen) < len(columns["time"])
    assert held(len(columns["time"]), chosen, lengths) == len(seen)
    # No history reaches into the events of another user.
    assert (chosen - lengths >= offsets[users]).all()
    assert lengths.max() == form.window
