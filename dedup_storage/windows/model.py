"""What is matched, and what matching finds: lists of requests, one list of each user, runs of one in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64

__all__ = ["Bools", "Events", "Lists", "Memory", "Rules", "Windows", "looked_at"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """What decides between ways to write down the same list.

    Attributes:
        run_tokens: A run costs as much as so many tokens: a list that is cheaper as it stands is no window.
        places: Of the places where a token stands in the user's list, the newest so many are tried.
    """

    run_tokens: int = 4
    places: int = 8


def looked_at(lengths: Int64) -> Int64:
    """Newest events of a user's list in which a list of each length is first looked for as one piece."""
    return 2 * lengths + 64


@dataclass(frozen=True)
class Lists:
    """The parallel lists of some requests: those of a user together, oldest request first, oldest token first.

    Attributes:
        users: (lists,) int64, ascending, in [0, num_users).
        num_users: Users; some may have no list.
        offsets: (lists + 1,) int64, where each list begins among the tokens.
        columns: Column -> (tokens,) values. A token is one value of each.
    """

    users: Int64
    num_users: int
    offsets: Int64
    columns: Mapping[str, pa.Array]

    @property
    def lengths(self) -> Int64:
        """Tokens of each list. (lists,) int64."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens of all lists."""
        return int(self.offsets[-1])

    def turned(self) -> Lists:
        """The same lists with their last token first."""
        lengths = self.lengths
        order = np.repeat(self.offsets[:-1] + self.offsets[1:], lengths) - 1 - np.arange(self.num_tokens)
        columns = {name: values.take(pa.array(order)) for name, values in self.columns.items()}
        return Lists(self.users, self.num_users, self.offsets, columns)

    def part(self, first: int, last: int) -> Lists:
        """Lists ``first`` to ``last`` - 1, with their users numbered from 0."""
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        users = self.users[first:last]
        users = users - users[0] if len(users) else users
        columns = {name: values.slice(start, stop - start) for name, values in self.columns.items()}
        count = int(users[-1]) + 1 if len(users) else 0
        return Lists(users, count, self.offsets[first : last + 1] - start, columns)

    def chosen(self, rows: Int64) -> Lists:
        """Some lists, with the users that have any numbered from 0. ``rows``: (k,) ascending."""
        lengths = self.lengths[rows]
        tokens = pa.array(ranges(self.offsets[rows], lengths))
        known, users = np.unique(self.users[rows], return_inverse=True)
        columns = {name: values.take(tokens) for name, values in self.columns.items()}
        return Lists(users.astype(np.int64), len(known), offsets_from_lengths(lengths), columns)

    def of(self, names: Sequence[str]) -> Lists:
        """The same lists of some columns alone."""
        return Lists(self.users, self.num_users, self.offsets, {name: self.columns[name] for name in names})


@dataclass(frozen=True)
class Events:
    """One list of each user: what was ever seen in the user's lists, in order of first appearance.

    Attributes:
        offsets: (users + 1,) int64.
        columns: Column -> (events,) values.
    """

    offsets: Int64
    columns: Mapping[str, pa.Array]

    @classmethod
    def none(cls, lists: Lists) -> Events:
        """Empty lists of the users of some lists."""
        columns = {name: values.slice(0, 0) for name, values in lists.columns.items()}
        return cls(np.zeros(lists.num_users + 1, dtype=np.int64), columns)

    def part(self, first: int, last: int) -> Events:
        """Users ``first`` to ``last`` - 1."""
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        columns = {name: values.slice(start, stop - start) for name, values in self.columns.items()}
        return Events(self.offsets[first : last + 1] - start, columns)


@dataclass(frozen=True)
class Memory:
    """What is remembered of each user from one match to the next.

    Attributes:
        misfits: (users,) int64, lists that did not fit since the last one that was laid anew proved useful.
        laid: (users,) int64, position of the last list that was laid anew.
    """

    misfits: Int64
    laid: Int64

    @classmethod
    def none(cls, users: int) -> Memory:
        """Of users that were never seen."""
        return cls(np.zeros(users, dtype=np.int64), np.zeros(users, dtype=np.int64))

    def part(self, first: int, last: int) -> Memory:
        """Of users ``first`` to ``last`` - 1."""
        return Memory(self.misfits[first:last], self.laid[first:last])

    def copy(self) -> Memory:
        """The same, to be changed."""
        return Memory(self.misfits.copy(), self.laid.copy())


@dataclass(frozen=True)
class Windows:
    """How each list stands in its user's list, and what that list grew by.

    Attributes:
        run_offsets: (lists + 1,) int64, the runs of each list; none for an empty list and for one that is kept.
        starts: (runs,) int64, position of a run in the user's list.
        lengths: (runs,) int64, its tokens.
        kept: (lists,) bool, lists that are no windows and stay lists.
        new_offsets: (users + 1,) int64, the new events of each user.
        new: (new events,) int64, the token that each of them is, in order of position.
        memory: Of each user what the next match needs to know.
    """

    run_offsets: Int64
    starts: Int64
    lengths: Int64
    kept: Bools
    new_offsets: Int64
    new: Int64
    memory: Memory

    @property
    def runs(self) -> Int64:
        """Runs of each list. (lists,) int64."""
        return np.diff(self.run_offsets)

    def keeping(self, rows: Bools) -> Windows:
        """The same with some lists kept as they are. ``rows``: (lists,) bool."""
        if not rows.any():
            return self
        runs = np.where(rows, 0, self.runs)
        chosen = ranges(self.run_offsets[:-1], runs)
        return Windows(
            offsets_from_lengths(runs), self.starts[chosen], self.lengths[chosen], self.kept | rows,
            self.new_offsets, self.new, self.memory,
        )  # fmt: skip
