"""An order of each user's events in which the lists that name them are few runs.

A user's list grows at its end alone, so an event that came late stands behind events that are newer, and each list with
it is cut there. Here the whole of a user's lists is known, and what comes out is an order for copies of the events:
every event once, one that a list names first behind the event before it in that list. Where all lists leave events out
of one order (late, deleted, capped, begun by other days), that order comes out, and what is left are gaps.

Events are known by their positions: no value is looked at, and equal events at two positions stay two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.model import Bools

__all__ = ["Anew", "Named", "in_order"]

# Atoms that are ordered at once; some 150 bytes are held for each. A user with more is left alone.
MOST_ATOMS = 8_000_000


@dataclass(frozen=True)
class Named:
    """Lists of some users, as runs of positions: those of a user together, oldest request first.

    Attributes:
        users: (lists,) int64, ascending, in [0, num_users).
        num_users: Users; some may have no list.
        run_offsets: (lists + 1,) int64, the runs of each list.
        starts, lengths: (runs,) int64, positions in the user's list; no run is empty.
    """

    users: Int64
    num_users: int
    run_offsets: Int64
    starts: Int64
    lengths: Int64

    @property
    def runs(self) -> Int64:
        """Runs of each list. (lists,) int64."""
        return np.diff(self.run_offsets)

    def part(self, first: int, last: int) -> Named:
        """Lists of users ``first`` to ``last`` - 1, with these numbered from 0."""
        a, b = (int(i) for i in np.searchsorted(self.users, [first, last]))
        runs = slice(int(self.run_offsets[a]), int(self.run_offsets[b]))
        return Named(
            self.users[a:b] - first, last - first, self.run_offsets[a : b + 1] - self.run_offsets[a],
            self.starts[runs], self.lengths[runs],
        )  # fmt: skip


@dataclass(frozen=True)
class Anew:
    """The same lists over events in another order, which is counted from 0 for each user.

    Attributes:
        run_offsets: (lists + 1,) int64.
        starts, lengths: (runs,) int64, places in the order.
        move_offsets: (users + 1,) int64, the pieces of each user's order.
        old, new, sizes: (pieces,) int64, position of a piece's first event, its place, and its events; by place.
        fits: (users,) bool; the others have no pieces, and their lists no runs: they have too much to hold at once.
    """

    run_offsets: Int64
    starts: Int64
    lengths: Int64
    move_offsets: Int64
    old: Int64
    new: Int64
    sizes: Int64
    fits: Bools


def in_order(named: Named, most_atoms: int = MOST_ATOMS) -> Anew:
    """Order the events that some lists name.

    Args:
        named: The lists.
        most_atoms: Pieces that are held at once; a user with more does not fit.
    """
    counts = _atoms_of(named)
    users = np.bincount(named.users, weights=counts, minlength=named.num_users).astype(np.int64)
    found, first = [], 0
    ends = np.cumsum(users)
    while first < named.num_users:
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + most_atoms, side="right")), first + 1)
        found.append(_ordered(named.part(first, last), most_atoms))
        first = last
    if not found:
        found.append(_ordered(named, most_atoms))
    return Anew(
        offsets_from_lengths(np.concatenate([np.diff(part.run_offsets) for part in found])),
        np.concatenate([part.starts for part in found]),
        np.concatenate([part.lengths for part in found]),
        offsets_from_lengths(np.concatenate([np.diff(part.move_offsets) for part in found])),
        np.concatenate([part.old for part in found]),
        np.concatenate([part.new for part in found]),
        np.concatenate([part.sizes for part in found]),
        np.concatenate([part.fits for part in found]),
    )


@dataclass(frozen=True)
class _Atoms:
    """Pieces of positions that no list names in part.

    Attributes:
        owners: (atoms,) int64, the user of each.
        starts, lengths: (atoms,) int64.
        first, last: (runs,) int64, the atoms of each run: from ``first`` to before ``last``.
    """

    owners: Int64
    starts: Int64
    lengths: Int64
    first: Int64
    last: Int64

    @classmethod
    def of(cls, named: Named) -> _Atoms:
        owners = np.repeat(named.users, named.runs)
        ends = named.starts + named.lengths
        span = int(ends.max(initial=0)) + 1
        bounds = np.unique(np.concatenate([owners * span + named.starts, owners * span + ends]))
        first = np.searchsorted(bounds, owners * span + named.starts)
        last = np.searchsorted(bounds, owners * span + ends)
        # What lies between a user's last bound and the next user's first is in no run.
        return cls(bounds // span, bounds % span, np.diff(bounds, append=bounds[-1:]), first, last)


def _atoms_of(named: Named) -> Int64:
    """Atoms of each list. (lists,) int64."""
    atoms = _Atoms.of(named)
    return np.diff(offsets_from_lengths(atoms.last - atoms.first)[named.run_offsets])


def _ordered(named: Named, most_atoms: int) -> Anew:
    atoms = _Atoms.of(named)
    counts = atoms.last - atoms.first
    fits = np.ones(named.num_users, dtype=np.bool_)
    if int(counts.sum()) > most_atoms:
        # One user alone.
        fits[:] = False
        counts = np.zeros(len(counts), dtype=np.int64)
    flat = ranges(atoms.first, counts)
    per_list = np.diff(offsets_from_lengths(counts)[named.run_offsets])
    lists = np.repeat(np.arange(len(named.users)), per_list)
    places, total = _places(*_once(flat, lists, len(atoms.starts)), named.users, named.num_users, atoms)
    return _told(named, atoms, flat, lists, places, total, fits)


def _once(flat: Int64, lists: Int64, atoms: int) -> tuple[Int64, Int64]:
    """Atoms of lists, without those that stand in the same list before, and the lists of them."""
    found = np.sort(np.unique(lists * (atoms + 1) + flat, return_index=True)[1])
    return flat[found], lists[found]


def _places(flat: Int64, lists: Int64, users: Int64, num_users: int, atoms: _Atoms) -> tuple[Int64, Int64]:
    """Place of each atom in its user's order, and the events of each user's order.

    Atoms are a chain for each user, held together by a node that is before its first and behind its last.
    """
    count = len(atoms.starts)
    chain = _Chain.of(count, num_users)
    known, at = np.unique(flat, return_index=True)
    new = np.zeros(len(flat), dtype=np.bool_)
    new[at] = True
    same = np.zeros(len(flat) + 1, dtype=np.bool_)
    same[1:-1] = lists[1:] == lists[:-1]
    follows = np.zeros(len(flat), dtype=np.bool_)
    follows[1:] = new[1:] & new[:-1] & same[1:-1]
    heads = np.flatnonzero(new & ~follows)
    if len(heads):
        stops = np.flatnonzero(new & ~np.append(follows[1:], False))
        inner = np.flatnonzero(follows)
        chain.after[flat[inner - 1]], chain.before[flat[inner]] = flat[inner], flat[inner - 1]
        # Behind the atom before them in the list; at its head before the one behind them; else at the end.
        behind = np.where(same[heads], flat[heads - 1], -1)
        ahead = np.where(same[stops + 1], flat[np.minimum(stops + 1, len(flat) - 1)], count + users[lists[heads]])
        _insert_by_rounds(chain, _ordinals(users)[lists[heads]], flat[heads], flat[stops], behind, ahead)
    lengths = np.zeros(count + num_users, dtype=np.int64)
    lengths[known] = atoms.lengths[known]
    to_end = chain.to_end(lengths, num_users)
    total = to_end[chain.after[count:]]
    owners = atoms.owners[known]
    places = np.full(count, -1, dtype=np.int64)
    places[known] = total[owners] - to_end[known]
    return places, total


def _ordinals(users: Int64) -> Int64:
    """The how manieth of its user each list is."""
    counts = np.bincount(users, minlength=1)
    return np.arange(len(users)) - (np.cumsum(counts) - counts)[users]


def _insert_by_rounds(chain: _Chain, rounds: Int64, first: Int64, last: Int64, behind: Int64, ahead: Int64) -> None:
    """Insert pieces list by list, the n-th lists of all users at once."""
    order = np.argsort(rounds, kind="stable")
    bounds = np.flatnonzero(np.diff(rounds[order])) + 1
    for rows in np.split(order, bounds):
        heads = rows[behind[rows] < 0]
        # One of each list at most: the others' anchors are looked at after it.
        chain.insert(chain.before[ahead[heads]], first[heads], last[heads])
        rest = rows[behind[rows] >= 0]
        chain.insert(behind[rest], first[rest], last[rest])


@dataclass(frozen=True)
class _Chain:
    """Atoms and, behind them, a node for each user, linked both ways."""

    after: Int64
    before: Int64

    @classmethod
    def of(cls, atoms: int, users: int) -> _Chain:
        nodes = np.arange(atoms + users, dtype=np.int64)
        return cls(nodes.copy(), nodes.copy())

    def insert(self, anchors: Int64, first: Int64, last: Int64) -> None:
        """Put pieces behind anchors, of which no two are the same."""
        following = self.after[anchors]
        self.after[anchors], self.before[first] = first, anchors
        self.after[last], self.before[following] = following, last

    def to_end(self, lengths: Int64, users: int) -> Int64:
        """Sum of the lengths from each node on to the end of its chain.

        Args:
            lengths: (nodes,) int64, 0 of the users' nodes.
            users: How many these are; they are the last.
        """
        following, total = self.after.copy(), lengths.copy()
        # Where a chain ends it goes round, and nothing is added.
        following[len(following) - users :] = np.arange(len(following) - users, len(following))
        while True:
            # Twice as far each time.
            total += total[following]
            further = following[following]
            if np.array_equal(further, following):
                return total
            following = further


def _told(named: Named, atoms: _Atoms, flat: Int64, lists: Int64, places: Int64, total: Int64, fits: Bools) -> Anew:
    starts, lengths = places[flat], atoms.lengths[flat]
    joins = np.zeros(len(flat), dtype=np.bool_)
    joins[1:] = (lists[1:] == lists[:-1]) & (starts[1:] == starts[:-1] + lengths[:-1])
    heads = np.flatnonzero(~joins)
    sizes = np.add.reduceat(lengths, heads) if len(heads) else lengths[:0]
    run_offsets = offsets_from_lengths(np.bincount(lists[heads], minlength=len(named.users)))
    known = np.flatnonzero(places >= 0)
    known = known[np.lexsort((places[known], atoms.owners[known]))]
    owners, old, new, length = atoms.owners[known], atoms.starts[known], places[known], atoms.lengths[known]
    joins = np.zeros(len(known), dtype=np.bool_)
    joins[1:] = (owners[1:] == owners[:-1]) & (old[1:] == old[:-1] + length[:-1])
    pieces = np.flatnonzero(~joins)
    length = np.add.reduceat(length, pieces) if len(pieces) else length
    moves = offsets_from_lengths(np.bincount(owners[pieces], minlength=named.num_users))
    return Anew(run_offsets, starts[heads], sizes, moves, old[pieces], new[pieces], length, fits)
