"""What finding the windows gives and costs, by the way in which histories were served.

Users' events come one after the other; every request is logged with the newest events of its user, as a server with
that policy would have shown them. Each list is matched against its user's list, and compared with the logged values.
Beside the seconds, a plain pass over the same tokens: NumPy sorting their hashes, which any way of finding each event
once would have to do at least. Then the runs where `maintain` has laid the lists anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, parse
from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.windows import Lists, Windows, match
from dedup_storage.windows.order import Anew, Named, in_order

USERS = {"small": 300, "full": 3_000}
REQUESTS, TOKENS, SLIDE, ITEMS = 20, 500, 20, 1_500

# The events of one user in the order in which they happened -> numbers of the events in each request's list.
Policy = Callable[[np.random.Generator, np.ndarray], Iterator[np.ndarray]]


def _ends() -> range:
    return range(TOKENS, TOKENS + REQUESTS * SLIDE, SLIDE)


def window(_: np.random.Generator, items: np.ndarray) -> Iterator[np.ndarray]:
    """The newest events."""
    for end in _ends():
        yield np.arange(end - TOKENS, end)


def late(random: np.random.Generator, items: np.ndarray) -> Iterator[np.ndarray]:
    """3 % of the events are seen up to sixty events late."""
    seen = np.arange(len(items)) + np.where(random.random(len(items)) < 0.03, random.integers(1, 60, len(items)), 0)
    for end in _ends():
        yield np.flatnonzero(seen < end)[-TOKENS:]


def repeated(_: np.random.Generator, items: np.ndarray) -> Iterator[np.ndarray]:
    """An item that comes again keeps its newest occurrence alone."""
    for end in _ends():
        newest = end - 1 - np.unique(items[:end][::-1], return_index=True)[1]
        yield np.sort(newest)[-TOKENS:]


def deleted(random: np.random.Generator, items: np.ndarray) -> Iterator[np.ndarray]:
    """0.1 % of the events are deleted for good, each at a request of its own."""
    gone_at = np.where(random.random(len(items)) < 0.001 * REQUESTS, random.integers(0, REQUESTS, len(items)), REQUESTS)
    for request, end in enumerate(_ends()):
        yield np.flatnonzero(gone_at[:end] > request)[-TOKENS:]


def capped(random: np.random.Generator, items: np.ndarray) -> Iterator[np.ndarray]:
    """The longest list allowed differs from request to request."""
    for end in _ends():
        yield np.arange(end - int(random.integers(TOKENS // 2, TOKENS + 1)), end)


POLICIES: dict[str, Policy] = {
    "pure window": window,
    "3 % of the events come late": late,
    "a repeated item keeps its newest occurrence": repeated,
    "0.1 % of the events deleted at each request": deleted,
    "the cap differs from request to request": capped,
}
LATER_HALF_FIRST = "3 % of the events come late, each user's later requests were written first"


def lists_of(policy: Policy, users: int) -> tuple[Lists, int]:
    """The lists that requests were logged with, and how many different events stand in them."""
    random = np.random.default_rng(7)
    numbers, lengths, events = [], [], 0
    items = random.integers(0, ITEMS, (users, TOKENS + REQUESTS * SLIDE))
    for user in range(users):
        shown = list(policy(random, items[user]))
        numbers += [user * items.shape[1] + chosen for chosen in shown]
        lengths += [len(chosen) for chosen in shown]
        events += len(np.unique(np.concatenate(shown)))
    tokens = np.concatenate(numbers)
    columns = {"item": pa.array(items.ravel()[tokens]), "time": pa.array(tokens * 60)}
    owners = np.repeat(np.arange(users), REQUESTS)
    return Lists(owners, users, offsets_from_lengths(np.asarray(lengths)), columns), events


def anew(lists: Lists, windows: Windows, times: np.ndarray) -> Anew:
    """The same lists where ``maintain`` has laid them anew.

    Args:
        lists: In the order in which they were written.
        windows: Where they stand.
        times: (lists,) when each of a user's requests was.
    """
    rows = np.lexsort((times, lists.users))
    rows = rows[~windows.kept[rows]]
    runs = ranges(windows.run_offsets[:-1][rows], windows.runs[rows])
    return in_order(
        Named(
            lists.users[rows], lists.num_users, offsets_from_lengths(windows.runs[rows]), windows.starts[runs],
            windows.lengths[runs],
        )
    )  # fmt: skip


def later_half_first(lists: Lists) -> tuple[Lists, np.ndarray]:
    """The lists as if each user's later requests had been written first, and when each request was."""
    ordinal = np.arange(len(lists.users)) % REQUESTS
    rows = np.lexsort((ordinal, ordinal < REQUESTS // 2, lists.users))
    tokens = pa.array(ranges(lists.offsets[:-1][rows], lists.lengths[rows]))
    columns = {name: values.take(tokens) for name, values in lists.columns.items()}
    return Lists(lists.users, lists.num_users, offsets_from_lengths(lists.lengths[rows]), columns), ordinal[rows]


def stored(lists: Lists, windows: Windows) -> int:
    """Tokens that are left to store: new events, and the lists that stay lists."""
    return len(windows.new) + int(lists.lengths[windows.kept].sum())


def main() -> None:
    """Run the benchmark."""
    arguments = parse(__doc__ or "")
    users, report = USERS[arguments.scale], Report("windows", arguments.scale)
    names = [*POLICIES, LATER_HALF_FIRST]
    for name in names:
        lists, events = lists_of(POLICIES.get(name, late), users)
        times = np.arange(len(lists.users)) % REQUESTS
        if name == LATER_HALF_FIRST:
            lists, times = later_half_first(lists)
        windows = match(lists)
        runs = windows.runs[~windows.kept]
        tokens = lists.num_tokens
        plain = np.asarray(lists.columns["time"])
        found = in_turn({"ours": lambda: match(lists), "plain": lambda: np.unique(plain)}, arguments.rounds)  # noqa: B023
        report.add(f"{name}: tokens / tokens to store", tokens / stored(lists, windows), "x", baseline=tokens / events)
        report.add(f"{name}: runs a request", float(runs.mean()), "runs")
        report.add(f"{name}: runs of 99 % of the requests, at most", float(np.quantile(runs, 0.99)), "runs")
        found_anew = in_turn({"anew": lambda: anew(lists, windows, times)}, arguments.rounds)  # noqa: B023
        later = np.diff(anew(lists, windows, times).run_offsets)
        report.add(f"{name}: runs a request, laid anew", float(later.mean()), "runs", baseline=float(runs.mean()))
        report.add(f"{name}: of 99 % of the requests, laid anew, at most", float(np.quantile(later, 0.99)), "runs")
        report.add(f"{name}: laying anew, of a million tokens", found_anew["anew"].median * 1e6 / tokens, "s")
        report.add(f"{name}: lists that stay lists", 100 * float(windows.kept.mean()), "%")
        report.add(
            f"{name}: matching, of a million tokens", found["ours"].median * 1e6 / tokens, "s",
            baseline=found["plain"].median * 1e6 / tokens,
        )  # fmt: skip
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
