"""The users' lists while requests' lists are matched against them: they grow at the end, and can be searched."""

from __future__ import annotations

import numpy as np

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.hashing import Hashes, powers
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.model import Bools

__all__ = ["UserLists"]


class UserLists:
    """All users' lists in one array of slots; each user has room for the longest that its list can become.

    A piece of a list and a piece of a user's list are compared in one step, however long they are: sums of a
    polynomial hash are kept for both (``dedup.hashing.WindowHashes``).

    Args:
        stored: (stored events,) hashes of what the users' lists hold, user by user.
        stored_offsets: (users + 1,) int64.
        tokens: (tokens,) hashes of the tokens of all lists.
        users: (tokens,) int64, the user of each.
    """

    def __init__(self, stored: Hashes, stored_offsets: Int64, tokens: Hashes, users: Int64) -> None:
        self.tokens, self._token_users = tokens, users
        self.size: Int64 = np.diff(stored_offsets)
        room = self.size + np.bincount(users, minlength=len(self.size)) + 1
        bounds = np.concatenate([[0], np.cumsum(room)]).astype(np.int64)
        self.base, slots = bounds[:-1], int(bounds[-1])
        self.hashes = np.zeros(slots, dtype=np.uint64)
        # The token that an event was first seen as; stored ones have none.
        self.source = np.full(slots, -1, dtype=np.int64)
        self._powers = powers(max(slots, len(tokens)) + 1)
        self._inverse = powers(len(self._powers), inverse=True)
        self._token_sums = np.zeros(len(tokens) + 1, dtype=np.uint64)
        np.cumsum(tokens * self._powers[: len(tokens)], out=self._token_sums[1:])
        self._sums = np.zeros(slots + 1, dtype=np.uint64)
        self._places: _Places | None = None
        self._lay(self.base, stored, np.diff(stored_offsets))

    def _lay(self, at: Int64, hashes: Hashes, counts: Int64) -> Int64:
        """Lay hashes at slots, ``counts`` from each of ``at`` on."""
        slots = ranges(at, counts)
        self.hashes[slots] = hashes
        summed = np.zeros(len(slots) + 1, dtype=np.uint64)
        np.cumsum(hashes * self._powers[slots], out=summed[1:])
        before = summed[np.cumsum(counts) - counts]
        self._sums[slots + 1] = summed[1:] - np.repeat(before - self._sums[at], counts)
        return slots

    def append(self, users: Int64, counts: Int64, tokens: Int64) -> None:
        """Add tokens at the end of some users' lists.

        Args:
            users: (k,) each once.
            counts: (k,) tokens of each.
            tokens: (sum of counts,) which.
        """
        slots = self._lay(self.base[users] + self.size[users], self.tokens[tokens], counts)
        self.source[slots] = tokens
        self.size[users] += counts
        if self._places is not None:
            self._places.enter(slots, self._places.codes[tokens])

    def same(self, tokens: Int64, slots: Int64, lengths: Int64) -> Bools:
        """Whether the pieces that begin at ``tokens`` and at ``slots`` are alike. Three of (k,) -> (k,)."""
        here = (self._token_sums[tokens + lengths] - self._token_sums[tokens]) * self._inverse[tokens]
        there = (self._sums[slots + lengths] - self._sums[slots]) * self._inverse[slots]
        return np.equal(here, there)

    def grown(self, tokens: Int64, slots: Int64, least: Int64, most: Int64) -> Int64:
        """The longest pieces alike that begin at ``tokens`` and at ``slots``; known to be at least ``least`` long."""
        low, high = least.copy(), most.copy()
        while True:
            (open_pieces,) = np.nonzero(low < high)
            if not len(open_pieces):
                return low
            middle = (low[open_pieces] + high[open_pieces] + 1) // 2
            alike = self.same(tokens[open_pieces], slots[open_pieces], middle)
            low[open_pieces[alike]] = middle[alike]
            high[open_pieces[~alike]] = middle[~alike] - 1

    def newest_place(self, tokens: Int64) -> Int64:
        """The newest slot of each token in its user's list, -1 where it is in none. (k,) -> (k,) int64."""
        places = self._index()
        return places.newest[places.codes[tokens]]

    def place_before(self, slots: Int64) -> Int64:
        """The next older slot of the same token, or -1. (k,) -> (k,) int64."""
        return self._index().before[slots]

    def _index(self) -> _Places:
        """Where each token stands; made when the first list is no one piece, since many logs have none."""
        if self._places is None:
            known, codes = np.unique(mix64(self.tokens ^ mix64(self._token_users)), return_inverse=True)
            self._places = _Places(codes.astype(np.int64), len(known), len(self.hashes))
            slots = ranges(self.base, self.size)
            keys = mix64(self.hashes[slots] ^ mix64(np.repeat(np.arange(len(self.size)), self.size)))
            found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            asked = known[found] == keys
            self._places.enter(slots[asked], found[asked])
        return self._places


class _Places:
    """The slots of each token of each user, from the newest back.

    Args:
        codes: (tokens,) int64, a number of each token and user.
        kinds: Such numbers.
        slots: Slots of all users' lists.
    """

    def __init__(self, codes: Int64, kinds: int, slots: int) -> None:
        self.codes = codes
        self.newest = np.full(kinds, -1, dtype=np.int64)
        self.before = np.full(slots, -1, dtype=np.int64)

    def enter(self, slots: Int64, codes: Int64) -> None:
        """Note what lies in some slots, later ones of a user last. ``slots``, ``codes``: (k,)."""
        order = np.argsort(codes, kind="stable")
        slots, codes = slots[order], codes[order]
        again = codes[1:] == codes[:-1]
        before = self.newest[codes]
        before[1:][again] = slots[:-1][again]
        self.before[slots] = before
        newest = np.ones(len(slots), dtype=np.bool_)
        newest[:-1] = ~again
        self.newest[codes[newest]] = slots[newest]
