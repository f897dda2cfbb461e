"""Finding the windows: where each logged list stands in its user's list, which grows at its end as lists come.

Exact by construction: positions never change, whatever a list holds is either in the user's list or is added to it,
and what was found is compared with the logged values before it counts. The n-th lists of all users are matched at
once, so that there are as many rounds as the busiest user has lists, and no step for a single list or token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.hashing import Hashes, combine, hash_column
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.align import align
from dedup_storage.windows.model import Events, Lists, Memory, Rules, Windows, looked_at
from dedup_storage.windows.rebuild import differing, events_after
from dedup_storage.windows.user_lists import UserLists

__all__ = ["match"]

# Tokens that are matched at once; some 110 bytes are held for each.
_PART_TOKENS = 2_000_000
_PLAIN_RULES = Rules()


def match(
    lists: Lists,
    stored: Events | None = None,
    *,
    memory: Memory | None = None,
    rules: Rules = _PLAIN_RULES,
    part_tokens: int = _PART_TOKENS,
    compared: bool = True,
) -> Windows:
    """Match lists against their users' lists.

    A list is first looked for as one piece at the end of the user's list (all of it, or its beginning with the rest
    new); where it is none, it is cut into pieces (``align``). Of a user's lists that do not fit, the first, second,
    fourth, eighth and so on are laid anew: added to the user's list as they are, so that a history that was ordered
    anew is followed from then on. The others stay lists. Counting begins again when half of a list or more is found
    in what was laid anew and after it.

    Args:
        lists: What was logged.
        stored: The users' lists so far; ``None`` for empty ones.
        memory: Of the users, from the match before; ``None`` where there was none.
        rules: What a run costs.
        part_tokens: Tokens to match at once, which bounds the memory.
        compared: Compare the values of what was found; without, hashes decide, and the caller compares.
    """
    stored = stored if stored is not None else Events.none(lists)
    memory = memory if memory is not None else Memory.none(lists.num_users)
    found = list(_parts(lists, stored, memory, rules, part_tokens, compared))
    if not found:
        nothing = np.empty(0, dtype=np.int64)
        zeros = np.zeros(1, dtype=np.int64)
        none = np.zeros(len(lists.users), dtype=np.bool_)
        return Windows(zeros, nothing, nothing, none, np.zeros(lists.num_users + 1, dtype=np.int64), nothing, memory)
    memory, grown = memory.copy(), np.zeros(lists.num_users, dtype=np.int64)
    for first_user, _, part in found:
        users = slice(first_user, first_user + len(part.memory.misfits))
        memory.misfits[users], memory.laid[users] = part.memory.misfits, part.memory.laid
        grown[users] += np.diff(part.new_offsets)
    return Windows(
        offsets_from_lengths(np.concatenate([part.runs for *_, part in found])),
        np.concatenate([part.starts for *_, part in found]),
        np.concatenate([part.lengths for *_, part in found]),
        np.concatenate([part.kept for *_, part in found]),
        offsets_from_lengths(grown),
        np.concatenate([first_token + part.new for _, first_token, part in found]),
        memory,
    )


def _parts(
    lists: Lists, stored: Events, memory: Memory, rules: Rules, part_tokens: int, compared: bool
) -> Iterator[tuple[int, int, Windows]]:
    """(first user, first token, windows) of parts of whole users, or of a part of one that is too large."""
    first, carried = 0, None
    while first < len(lists.users):
        last = int(np.searchsorted(lists.offsets, lists.offsets[first] + part_tokens, side="right")) - 1
        last = min(max(last, first + 1), len(lists.users))
        user = int(lists.users[first])
        if carried is not None:
            last = min(last, int(np.searchsorted(lists.users, user, side="right")))
        elif last < len(lists.users) and lists.users[last] == lists.users[last - 1] != user:
            last = int(np.searchsorted(lists.users, lists.users[last]))
        part = lists.part(first, last)
        if carried is None:
            known, told = stored.part(user, user + part.num_users), memory.part(user, user + part.num_users)
        else:
            known, told = carried
        windows = _match(part, known, told, rules)
        goes_on = last < len(lists.users) and lists.users[last] == user
        after = events_after(known, part, windows) if compared or goes_on else None
        if compared and after is not None:
            windows = windows.keeping(differing(part, windows, after))
        yield user, int(lists.offsets[first]), windows
        carried = (after, windows.memory) if goes_on and after is not None else None
        first = last


def _match(lists: Lists, stored: Events, memory: Memory, rules: Rules) -> Windows:
    users = np.repeat(lists.users, lists.lengths)
    known = UserLists(_hashes(stored), stored.offsets, _hashes(lists), users)
    rounds = _Rounds(lists, known, memory.copy(), rules)
    before = np.bincount(lists.users, minlength=1)
    ordinal = np.arange(len(lists.users)) - (np.cumsum(before) - before)[lists.users]
    order = np.argsort(ordinal, kind="stable")
    order = order[lists.lengths[order] > 0]
    bounds = np.flatnonzero(np.diff(ordinal[order])) + 1
    for rows in np.split(order, bounds):
        if len(rows):
            rounds.match(rows)
    return rounds.windows(np.diff(stored.offsets))


def _hashes(of: Lists | Events) -> Hashes:
    return combine([hash_column(values, bits=True) for values in of.columns.values()])


class _Rounds:
    """The n-th lists of all users, round by round."""

    def __init__(self, lists: Lists, known: UserLists, memory: Memory, rules: Rules) -> None:
        self._lists, self._known, self._memory, self._rules = lists, known, memory, rules
        self._kept = np.zeros(len(lists.users), dtype=np.bool_)
        self._found: list[tuple[Int64, Int64, Int64]] = []

    def match(self, rows: Int64) -> None:
        """Match lists of different users, none of them empty."""
        known, users, lengths = self._known, self._lists.users[rows], self._lists.lengths[rows]
        sizes = known.size[users]
        places = self._one_piece(rows, users, lengths, sizes)
        overlap = np.minimum(lengths, sizes - places)
        one = (sizes == 0) | ((places >= 0) & (lengths <= 2 * overlap))
        places, overlap = np.where(sizes == 0, 0, places), np.where(sizes == 0, 0, overlap)
        self._add(rows[one], places[one], lengths[one])
        self._append(rows[one], overlap[one])
        self._notice(users[one], lengths[one], np.arange(int(one.sum())), places[one], lengths[one])
        if not one.all():
            self._align(rows[~one])

    def windows(self, stored: Int64) -> Windows:
        """What was found. ``stored``: (users,) events of each user before."""
        known, lists = self._known, self._lists
        owners, starts, lengths = (
            (np.concatenate(part) for part in zip(*self._found, strict=True))
            if self._found
            else (np.empty(0, dtype=np.int64) for _ in range(3))
        )
        order = np.argsort(owners, kind="stable")
        runs = np.bincount(owners, minlength=len(lists.users))
        grown = known.size - stored
        return Windows(
            offsets_from_lengths(runs), starts[order], lengths[order], self._kept, offsets_from_lengths(grown),
            known.source[ranges(known.base + stored, grown)], self._memory,
        )  # fmt: skip

    def _one_piece(self, rows: Int64, users: Int64, lengths: Int64, sizes: Int64) -> Int64:
        """The first position from which the user's list goes as the list does, to the end of either; or -1."""
        known = self._known
        count = np.minimum(sizes, looked_at(lengths))
        base = known.base[users]
        slots = ranges(base + sizes - count, count)
        tokens = self._lists.offsets[rows]
        # Position by position: the first token alone rules out nearly all.
        hits = np.flatnonzero(known.hashes[slots] == np.repeat(known.tokens[tokens], count))
        owners = np.searchsorted(np.cumsum(count), hits, side="right")
        slots = slots[hits]
        alike = known.same(tokens[owners], slots, np.minimum(lengths[owners], base[owners] + sizes[owners] - slots))
        owners, first = np.unique(owners[alike], return_index=True)
        places = np.full(len(rows), -1, dtype=np.int64)
        places[owners] = slots[alike][first] - base[owners]
        return places

    def _align(self, rows: Int64) -> None:
        users, lengths = self._lists.users[rows], self._lists.lengths[rows]
        pieces = align(self._known, users, self._lists.offsets[rows], lengths, self._rules)
        self._add(rows[pieces.owners], pieces.starts, pieces.lengths)
        grown = np.bincount(pieces.new_owners, weights=pieces.new_lengths, minlength=len(rows)).astype(np.int64)
        self._known.append(users, grown, ranges(pieces.new_starts, pieces.new_lengths))
        self._notice(users, lengths, pieces.owners, pieces.starts, pieces.lengths)
        self._memory.misfits[users[~pieces.fits]] += 1
        times = self._memory.misfits[users]
        anew = ~pieces.fits & (times & (times - 1) == 0)
        self._kept[rows[~pieces.fits & ~anew]] = True
        self._memory.laid[users[anew]] = self._known.size[users[anew]]
        self._add(rows[anew], self._known.size[users[anew]], lengths[anew])
        self._append(rows[anew], np.zeros(int(anew.sum()), dtype=np.int64))

    def _notice(self, users: Int64, lengths: Int64, owners: Int64, starts: Int64, run_lengths: Int64) -> None:
        """Forget the misfits of users whose list is found, half or more, from the last list on that was laid anew.

        Args:
            users, lengths: (lists,).
            owners, starts, run_lengths: (runs,) the runs of these lists.
        """
        misfits, laid = self._memory.misfits, self._memory.laid
        if not misfits[users].any():
            return
        behind = np.clip(starts + run_lengths - laid[users][owners], 0, run_lengths)
        misfits[users[2 * np.bincount(owners, weights=behind, minlength=len(users)) >= lengths]] = 0

    def _add(self, rows: Int64, starts: Int64, lengths: Int64) -> None:
        self._found.append((rows, starts, lengths))

    def _append(self, rows: Int64, known_tokens: Int64) -> None:
        """Add what follows the first ``known_tokens`` of each list to the user's list."""
        starts, lengths = self._lists.offsets[rows] + known_tokens, self._lists.lengths[rows] - known_tokens
        self._known.append(self._lists.users[rows], lengths, ranges(starts, lengths))
