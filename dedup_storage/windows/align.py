"""A list that is no single piece of its user's list is cut into the fewest pieces that are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.model import Bools, Rules
from dedup_storage.windows.user_lists import UserLists

__all__ = ["Pieces", "align"]


@dataclass(frozen=True)
class Pieces:
    """Consecutive pieces of some lists.

    Attributes:
        owners: (pieces,) int64, the list of each, ascending.
        starts: (pieces,) int64, position in the user's list.
        lengths: (pieces,) int64.
        new_owners, new_starts, new_lengths: (new pieces,) int64, the list, the first token and the tokens of what
            the user's list is to grow by, in order.
        fits: (lists,) bool; the pieces of other lists are left out.
    """

    owners: Int64
    starts: Int64
    lengths: Int64
    new_owners: Int64
    new_starts: Int64
    new_lengths: Int64
    fits: Bools


def align(known: UserLists, users: Int64, starts: Int64, lengths: Int64, rules: Rules) -> Pieces:
    """Cut lists into pieces: always the longest that the user's list holds, of equally long ones the newest.

    Tokens that the user's list does not hold are new and go to its end. So does all that follows a piece at the end
    of the user's list, if it is no more than what the list holds up to there: it is the list's new part, even where
    one of its tokens was seen before. A list whose pieces cost more than its tokens does not fit.

    Args:
        known: The users' lists.
        users: (lists,) int64, each user once.
        starts: (lists,) int64, first token of each list.
        lengths: (lists,) int64, at least 1.
        rules: What a piece costs, and how many places are tried.
    """
    asked = _Asked.of(known, users, starts, lengths)
    once = asked.once()
    found = [_stretches(asked, np.flatnonzero(once)), _longest_first(asked, np.flatnonzero(~once), rules)]
    owner, at, slot, length = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((at, owner))
    return _judged(asked, owner[order], at[order], slot[order], length[order], rules)


# Of each piece its list, its first token (of the asked lists), its first slot or -1 where it is new, and its tokens.
_Found = tuple[Int64, Int64, Int64, Int64]


@dataclass(frozen=True)
class _Asked:
    """The lists, token by token.

    Attributes:
        offsets: (lists + 1,) int64, their tokens among the asked ones.
        tokens: (asked tokens,) int64.
        heads: (asked tokens,) int64, the newest slot of each in its user's list, or -1.
        limits: (lists,) int64, slot behind the last one of the user's list.
    """

    known: UserLists
    users: Int64
    lengths: Int64
    offsets: Int64
    tokens: Int64
    heads: Int64
    limits: Int64

    @classmethod
    def of(cls, known: UserLists, users: Int64, starts: Int64, lengths: Int64) -> _Asked:
        tokens = ranges(starts, lengths)
        limits = known.base[users] + known.size[users]
        return cls(known, users, lengths, offsets_from_lengths(lengths), tokens, known.newest_place(tokens), limits)

    def once(self) -> Bools:
        """Which lists hold no token that stands in the user's list more than once. (lists,) bool."""
        again = np.zeros(len(self.heads), dtype=np.bool_)
        old = np.flatnonzero(self.heads >= 0)
        again[old] = self.known.place_before(self.heads[old]) >= 0
        return ~np.logical_or.reduceat(again, self.offsets[:-1])

    def follows(self, at: Int64, owner: Int64) -> Bools:
        """Which of some tokens go on as the one before: the next place in the user's list, or new as well."""
        heads = self.heads[at]
        old = heads >= 0
        follows = np.zeros(len(at), dtype=np.bool_)
        follows[1:] = (old[1:] == old[:-1]) & (owner[1:] == owner[:-1]) & (~old[1:] | (heads[1:] == heads[:-1] + 1))
        return follows

    def tails(self, owner: Int64, ends: Int64, slots: Int64) -> Bools:
        """Behind which pieces the rest of the list is its new part.

        Args:
            owner: (k,) their lists.
            ends, slots: (k,) the token and the slot that follow each.
        """
        rest = self.offsets[1:][owner] - ends
        return (slots == self.limits[owner]) & (rest > 0) & (2 * rest <= self.lengths[owner])


def _stretches(asked: _Asked, rows: Int64) -> _Found:
    """Pieces of lists of which each token has one place at most: they end where places do not follow each other."""
    at = ranges(asked.offsets[rows], asked.lengths[rows])
    owner = np.repeat(rows, asked.lengths[rows])
    first = np.flatnonzero(~asked.follows(at, owner))
    length = np.diff(first, append=len(at))
    owner, at = owner[first], at[first]
    slots = asked.heads[at]
    tail = asked.tails(owner, at + length, np.where(slots >= 0, slots + length, -1))
    # The first such piece of a list is its last but one.
    lists, which = np.unique(owner[tail], return_index=True)
    last = np.flatnonzero(tail)[which]
    cut = np.full(len(asked.lengths), len(asked.tokens), dtype=np.int64)
    cut[lists] = at[last] + length[last]
    kept = at < cut[owner]
    ends = cut[lists]
    return (
        np.concatenate([owner[kept], lists]), np.concatenate([at[kept], ends]),
        np.concatenate([slots[kept], np.full(len(lists), -1, dtype=np.int64)]),
        np.concatenate([length[kept], asked.offsets[1:][lists] - ends]),
    )  # fmt: skip


def _longest_first(asked: _Asked, rows: Int64, rules: Rules) -> _Found:
    """Pieces of any lists, one after the other, all lists at once; of one that cannot fit any more only the first."""
    stops, cursor = asked.offsets[1:], asked.offsets[:-1].copy()
    everything = np.arange(len(asked.tokens))
    breaks = np.flatnonzero(~asked.follows(everything, np.repeat(np.arange(len(stops)), asked.lengths)))
    after = np.repeat(np.append(breaks[1:], len(everything)), np.diff(breaks, append=len(everything)))
    counts = np.zeros(len(stops), dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64)
    found: list[_Found] = [(nothing, nothing, nothing, nothing)]
    active = rows
    while len(active):
        at = cursor[active]
        slots = asked.heads[at]
        new = slots < 0
        length = after[at] - at
        old = np.flatnonzero(~new)
        if len(old):
            who = active[old]
            slots[old], length[old] = _longest(
                asked.known, asked.tokens[at[old]], stops[who] - at[old], slots[old], length[old], asked.limits[who],
                rules.places,
            )  # fmt: skip
        found.append((active, at, slots, length))
        cursor[active] += length
        counts[active] += 1
        ends = active[asked.tails(active, cursor[active], np.where(new, -1, slots + length))]
        if len(ends):
            found.append((ends, cursor[ends], np.full(len(ends), -1, dtype=np.int64), stops[ends] - cursor[ends]))
            cursor[ends] = stops[ends]
        # One piece may join the one before; with as many as this the list cannot fit any more.
        hopeless = rules.run_tokens * (counts[active] - 2) > asked.lengths[active]
        active = active[(cursor[active] < stops[active]) & ~hopeless]
    owner, at, slots, length = (np.concatenate(part) for part in zip(*found, strict=True))
    return owner, at, slots, length


def _longest(
    known: UserLists, tokens: Int64, room: Int64, slots: Int64, least: Int64, limits: Int64, places: int
) -> tuple[Int64, Int64]:
    """The longest pieces of the users' lists that begin with the given tokens, and their lengths.

    Args:
        known: The users' lists.
        tokens, room: (k,) first tokens, and how many their lists have from there on.
        slots, least: (k,) their newest places, and how far these are known to go on alike.
        limits: (k,) where the users' lists end.
        places: How many places of a token are tried.
    """
    best, length = slots.copy(), least.copy()
    live = np.arange(len(tokens))
    for _ in range(places):
        need = length[live] + 1
        most = np.minimum(room[live], limits[live] - slots)
        fits = np.flatnonzero(need <= most)
        better = fits[known.same(tokens[live[fits]], slots[fits], need[fits])]
        if len(better):
            who = live[better]
            length[who] = known.grown(tokens[who], slots[better], need[better], most[better])
            best[who] = slots[better]
        slots = known.place_before(slots)
        more = (slots >= 0) & (length[live] < room[live])
        live, slots = live[more], slots[more]
        if not len(live):
            break
    return best, length


def _judged(asked: _Asked, owner: Int64, at: Int64, slot: Int64, length: Int64, rules: Rules) -> Pieces:
    """Give new pieces their positions, join what lies together, and leave out lists that do not fit."""
    lists, lengths, sizes = len(asked.lengths), asked.lengths, asked.known.size[asked.users]
    new = slot < 0
    grown = np.where(new, length, 0)
    before = np.cumsum(grown) - grown
    first = np.searchsorted(owner, np.arange(lists))
    start = np.where(new, sizes[owner] + before - before[first][owner], slot - asked.known.base[asked.users][owner])
    joins = np.zeros(len(owner), dtype=np.bool_)
    joins[1:] = (owner[1:] == owner[:-1]) & (start[1:] == start[:-1] + length[:-1])
    heads = np.flatnonzero(~joins)
    joined = np.add.reduceat(length, heads)
    runs = np.bincount(owner[heads], minlength=lists)
    added, covered = (np.bincount(owner, weights=w, minlength=lists).astype(np.int64) for w in (grown, length))
    fits = (covered == lengths) & (added + rules.run_tokens * (runs - 1) <= lengths)
    kept, grows = fits[owner[heads]], new & fits[owner]
    return Pieces(owner[heads][kept], start[heads][kept], joined[kept],
                  owner[grows], asked.tokens[at[grows]], length[grows], fits)  # fmt: skip
