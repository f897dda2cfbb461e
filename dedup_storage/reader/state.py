"""Where a reader stands: JSON, exact, and free of how many ranks and workers there were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import StateMismatchError

__all__ = ["Position", "ReaderState", "Received", "fingerprint", "merge_states"]

FORMAT = 1
# What a pin that differs means, for messages.
_OTHERS = {
    "dataset": "another dataset",
    "snapshots": "other snapshots of the tables",
    "seed": "another seed",
    "splits": "another number of splits",
    "columns": "other columns",
    "filters": "other filters",
    "options": "other options",
}


def fingerprint(values: Mapping[str, Any]) -> str:
    """Short digest of JSON values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Position:
    """Which batches of an epoch's sequence have been delivered.

    Attributes:
        epoch: The epoch.
        start: Every batch before this one.
        done: Single batches from ``start`` on, ascending: what ranks ahead of the others had received.
    """

    epoch: int = 0
    start: int = 0
    done: tuple[int, ...] = ()

    def remaining(self, total: int) -> Int64:
        """Numbers of the batches that are left of ``total``, in order."""
        left = np.arange(self.start, max(total, self.start), dtype=np.int64)
        return left[~np.isin(left, np.array(self.done, dtype=np.int64))] if self.done else left

    def after(self, delivered: Sequence[tuple[int, int, int]], ahead: Sequence[int] = ()) -> Position:
        """The position once shards have received batches of what was left here.

        Args:
            delivered: (shard, shards, steps): the shard had received ``steps`` of the batches dealt to it.
            ahead: Places of further batches, received before others of their shard.
        """
        most = max((shards * steps for _, shards, steps in delivered), default=0)
        most = max(most, *(place + 1 for place in ahead), 0)
        # Numbers of the batches left: all those that any shard can have reached.
        left = self.remaining(self.start + len(self.done) + most + 1)[: most + 1]
        received = set(self.done)
        for shard, shards, steps in delivered:
            received.update(int(g) for g in left[shard : shards * steps : shards][:steps])
        received.update(int(left[place]) for place in ahead)
        start = self.start
        while start in received:
            start += 1
        return Position(self.epoch, start, tuple(sorted(g for g in received if g >= start)))


@dataclass(frozen=True)
class ReaderState:
    """A position, who reports it, and what it belongs to.

    Attributes:
        pins: What must be the same for the position to mean anything: dataset, snapshots, seed, splits, options.
        base: Position where the iteration began.
        shard: Which share of the batches this reader receives.
        shards: Into how many shares they are dealt.
        steps: Batches received since the iteration began, of the first ones dealt to it.
        ahead: Numbers of further batches dealt to it that came before others; a loader may hand them out in any order.
    """

    pins: Mapping[str, Any]
    base: Position = field(default_factory=Position)
    shard: int = 0
    shards: int = 1
    steps: int = 0
    ahead: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        more = {"ahead": list(self.ahead)} if self.ahead else {}
        return {
            "format": FORMAT,
            "pins": dict(self.pins),
            "epoch": self.base.epoch,
            "start": self.base.start,
            "done": list(self.base.done),
            "shard": self.shard,
            "shards": self.shards,
            "steps": self.steps,
            **more,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaderState:
        """Read plain values.

        Raises:
            StateMismatchError: they are not a state of this release.
        """
        if values.get("format") != FORMAT:
            raise StateMismatchError(
                "the state is not a state of this reader", expected=f"format {FORMAT}", got=str(values.get("format"))
            )
        try:
            base = Position(int(values["epoch"]), int(values["start"]), tuple(int(g) for g in values["done"]))
            ahead = tuple(int(n) for n in values.get("ahead", ()))
            shard, shards, steps = (int(values[name]) for name in ("shard", "shards", "steps"))
            return cls(dict(values["pins"]), base, shard, shards, steps, ahead)
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatchError(f"the state is damaged: {error}", fix="Load another checkpoint.") from None

    def check(self, pins: Mapping[str, Any]) -> None:
        """Compare with a reader's own pins.

        Raises:
            StateMismatchError: names the first that differs.
        """
        for name in {**pins, **self.pins}:
            if self.pins.get(name) != pins.get(name):
                raise StateMismatchError(
                    f"the state belongs to {_OTHERS.get(name, f'another {name}')}",
                    expected=str(pins.get(name)),
                    got=str(self.pins.get(name)),
                    fix="Open the reader as it was when the state was saved.",
                )

    @property
    def lockstep(self) -> Position:
        """The position when every shard has received as many batches as this one.

        Raises:
            StateMismatchError: this one received batches out of order, which says nothing about the others.
        """
        if self.ahead and self.shards > 1:
            raise StateMismatchError(
                "the state of one rank does not say what the others have received: its batches came out of order",
                expected="the states of all ranks",
                fix="Join them with merge_states, or leave in_order=True.",
            )
        return self.base.after([(s, self.shards, self.steps) for s in range(self.shards)], self.places)

    @property
    def places(self) -> tuple[int, ...]:
        """Places of what came ahead among all batches that were left."""
        return tuple(self.shard + self.shards * number for number in self.ahead)


@dataclass
class Received:
    """Batches of one rank in one iteration, in whatever order they come.

    Attributes:
        epoch: The iteration's epoch.
        steps: So many of the first ones came.
        ahead: Numbers of those that came before others.
    """

    epoch: int
    steps: int = 0
    ahead: set[int] = field(default_factory=set)

    def add(self, number: int) -> None:
        """Count one batch by its number among those dealt to the rank."""
        self.ahead.add(number)
        while self.steps in self.ahead:
            self.ahead.remove(self.steps)
            self.steps += 1


def _reader_states(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The iterators' states inside a torchdata StatefulDataLoader's, one for each worker; else the state itself."""
    if "format" in state:
        return [state]
    if state.get("_steps_since_snapshot"):
        raise StateMismatchError(
            "the loader's state is older than its last batch", fix="Leave snapshot_every_n_steps at 1."
        )
    found: list[Mapping[str, Any]] = []

    def search(node: Any) -> None:
        if isinstance(node, Mapping):
            inner = node.get("dataset_iter_state")
            if isinstance(inner, Mapping):
                found.append(inner)
                return
            for value in node.values():
                search(value)

    search(state)
    return found


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state from those of all ranks or workers: what any of them has received counts as received.

    Args:
        states: ``state_dict()`` of every rank, of the dataset or of its StatefulDataLoader, taken in one iteration.

    Raises:
        StateMismatchError: none is given, they belong to different readers or iterations, or one is missing.
    """
    read = [ReaderState.from_dict(s) for state in states for s in _reader_states(state)]
    if not read:
        raise StateMismatchError("there is no state to merge", expected="the state of every rank")
    first = read[0]
    for other in read[1:]:
        other.check(first.pins)
        if (other.base, other.shards) != (first.base, first.shards):
            raise StateMismatchError(
                "the states come from different iterations", expected=str(first.base), got=str(other.base)
            )
    shards = sorted(s.shard for s in read)
    if shards != list(range(first.shards)):
        raise StateMismatchError(
            "the states do not cover every share",
            expected=f"shares 0 to {first.shards - 1}, each once",
            got=str(shards),
        )
    ahead = [place for s in read for place in s.places]
    merged = first.base.after([(s.shard, s.shards, s.steps) for s in read], ahead)
    return ReaderState(first.pins, merged).to_dict()
