"""At which positions the events stand that there are of users' lists.

A position is an event's for ever: events that were dropped leave gaps, and what is new follows the last event that is
there. Matching knows events by their number in what there is, so runs are cut where a gap is, and told by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.model import Windows

__all__ = ["Places"]


@dataclass(frozen=True)
class Places:
    """Pieces of users' lists without a gap in them, user by user.

    Attributes:
        offsets: (users + 1,) int64, the events that there are of each.
        heads: (pieces,) int64, number of each piece's first event among all events.
        positions: (pieces,) int64, its position in its user's list.
    """

    offsets: Int64
    heads: Int64
    positions: Int64

    @classmethod
    def of(cls, users: int, owners: Int64, positions: Int64, lengths: Int64) -> tuple[Places, int]:
        """The places of some rows of events, and how many rows begin at a position that is taken, or at none.

        Args:
            users: How many users there are.
            owners: (rows,) int64, ascending, the user of each row.
            positions: (rows,) int64, position of its first event; those of a user ascend.
            lengths: (rows,) int64, its events, which follow each other.
        """
        counts = np.bincount(owners, weights=lengths, minlength=users).astype(np.int64)
        known = np.zeros(len(owners), dtype=np.bool_)
        known[1:] = owners[1:] == owners[:-1]
        ends = np.append(0, positions[:-1] + lengths[:-1]) if len(owners) else lengths
        wrong = int(np.count_nonzero((positions < 0) | (known & (positions < ends))))
        first = (~known | (positions > ends)) & (lengths > 0)
        heads = offsets_from_lengths(lengths)[:-1]
        return cls(offsets_from_lengths(counts), heads[first], positions[first]), wrong

    @cached_property
    def counts(self) -> Int64:
        """(users,) int64 events that there are of each."""
        return np.diff(self.offsets)

    @cached_property
    def owners(self) -> Int64:
        """(pieces,) int64 the user of each."""
        return np.searchsorted(self.offsets, self.heads, side="right") - 1

    @cached_property
    def ends(self) -> Int64:
        """(users,) int64 the position that the next new event of each user takes."""
        found, there = np.zeros(len(self.counts), dtype=np.int64), self.counts > 0
        last = np.searchsorted(self.heads, self.offsets[1:][there], side="left") - 1
        found[there] = self.positions[last] + self.offsets[1:][there] - self.heads[last]
        return found

    @cached_property
    def whole(self) -> bool:
        """Whether every event's position is its number in its user's list."""
        return np.array_equal(self.positions, self.heads - self.offsets[self.owners])

    def cut(self, windows: Windows, users: Int64) -> Windows:
        """The same windows, their runs cut where a gap lies inside them.

        Args:
            windows: Runs by number in the users' lists.
            users: (lists,) int64, the user of each list.
        """
        if self.whole or not len(windows.starts):
            return windows
        owners = np.repeat(users, windows.runs)
        starts = self.offsets[owners] + windows.starts
        stops = np.minimum(starts + windows.lengths, self.offsets[owners + 1])
        low = np.searchsorted(self.heads, starts, side="right")
        more = np.maximum(np.searchsorted(self.heads, stops, side="left") - low, 0)
        bounds = offsets_from_lengths(more + 1)
        begins = np.empty(int(bounds[-1]), dtype=np.int64)
        begins[bounds[:-1]] = starts
        begins[ranges(bounds[:-1] + 1, more)] = self.heads[ranges(low, more)]
        ends = np.append(begins[1:], 0)
        ends[bounds[1:] - 1] = starts + windows.lengths
        begins -= np.repeat(self.offsets[owners], more + 1)
        ends -= np.repeat(self.offsets[owners], more + 1)
        return Windows(
            bounds[windows.run_offsets], begins, ends - begins, windows.kept, windows.new_offsets, windows.new,
            windows.memory,
        )  # fmt: skip

    def position(self, users: Int64, numbers: Int64) -> Int64:
        """Position of some events by their number in their user's list; new ones follow. Two of (k,) -> (k,)."""
        if self.whole:
            return numbers
        new = numbers - self.counts[users]
        found = self.ends[users] + new
        there = new < 0
        event = (self.offsets[users] + numbers)[there]
        piece = np.searchsorted(self.heads, event, side="right") - 1
        found[there] = self.positions[piece] + event - self.heads[piece]
        return found

    def number(self, users: Int64, positions: Int64, lengths: Int64) -> Int64:
        """Number in its user's list of the first event of some runs, -1 where one of a run's events is not there.

        What is new counts as there, however long it is.

        Args:
            users: (runs,) int64.
            positions: (runs,) int64, of the first event of each.
            lengths: (runs,) int64.
        """
        if self.whole:
            return positions
        found = np.where(positions >= self.ends[users], self.counts[users] + positions - self.ends[users], -1)
        old = np.flatnonzero((positions >= 0) & (positions < self.ends[users]))
        if len(old):
            owner, wanted = users[old], positions[old]
            span = int(self.ends.max()) + 1
            piece = np.searchsorted(self.owners * span + self.positions, owner * span + wanted, side="right") - 1
            inside = (piece >= 0) & (self.owners[piece] == owner)
            size = np.diff(np.append(self.heads, self.offsets[-1]))[piece]
            last = self.positions[piece] + size == self.ends[owner]
            inside &= last | (wanted + lengths[old] <= self.positions[piece] + size)
            there = self.heads[piece] - self.offsets[owner] + wanted - self.positions[piece]
            found[old] = np.where(inside, there, -1)
        return found

    def last_user(self, new: int) -> Places:
        """Those of the last user alone, whose list grew by some new events."""
        begin, end = int(self.offsets[-2]), int(self.offsets[-1])
        own = self.heads >= begin
        heads, positions = self.heads[own] - begin, self.positions[own]
        if begin == end and new:
            heads = positions = np.zeros(1, dtype=np.int64)
        return Places(np.array([0, end - begin + new], dtype=np.int64), heads, positions)
