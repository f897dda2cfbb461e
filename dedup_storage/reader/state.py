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

__all__ = ["ORDER", "Position", "ReaderState", "fingerprint", "merge_states"]

FORMAT = 1
# Which sequence of batches positions count in. The first was made of all keys, and its states do not name it.
ORDER = 2
# A state with batches received out of order, which releases that know no such state must not read.
_FORMAT_AHEAD = 2
# What a pin that differs means, for messages.
_OTHERS = {
    "order": "another order of batches",
    "dataset": "another dataset",
    "snapshots": "other snapshots of the tables",
    "seed": "another seed",
    "splits": "another number of splits",
    "columns": "other columns",
    "filters": "other filters",
    "options": "other options",
    "vocabularies": "other vocabularies",
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

    def after(
        self,
        delivered: Sequence[tuple[int, int, int]],
        ahead: Sequence[tuple[int, int, Sequence[int]]] = (),
    ) -> Position:
        """The position once shards have received batches of what was left here.

        Args:
            delivered: (shard, shards, steps): the shard had received ``steps`` of the batches dealt to it.
            ahead: (shard, shards, numbers): single batches of those dealt to it that it had received beyond them.
        """
        most = max((shards * steps for _, shards, steps in delivered), default=0)
        most = max([most, *(shards * (number + 1) for _, shards, numbers in ahead for number in numbers)])
        # Numbers of the batches left: all those that any shard can have reached.
        left = self.remaining(self.start + len(self.done) + most + 1)[: most + 1]
        received = set(self.done)
        for shard, shards, steps in delivered:
            received.update(int(g) for g in left[shard : shards * steps : shards][:steps])
        for shard, shards, numbers in ahead:
            received.update(int(left[shard + shards * number]) for number in numbers)
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
        steps: Batches received since the iteration began, without a gap.
        ahead: Numbers of further ones that were received out of order.
        opened: Version and options of the reader, for messages.
        loose: Whether a worker reports it whose batches reach the trainer in any order among the other workers'.
    """

    pins: Mapping[str, Any]
    base: Position = field(default_factory=Position)
    shard: int = 0
    shards: int = 1
    steps: int = 0
    ahead: tuple[int, ...] = ()
    opened: Mapping[str, Any] = field(default_factory=dict)
    loose: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {
            "format": _FORMAT_AHEAD if self.ahead else FORMAT,
            "pins": dict(self.pins),
            "epoch": self.base.epoch,
            "start": self.base.start,
            "done": list(self.base.done),
            "shard": self.shard,
            "shards": self.shards,
            "steps": self.steps,
        }
        if self.ahead:
            values["ahead"] = list(self.ahead)
        if self.loose:
            values["loose"] = True
        if self.opened:
            values["opened"] = dict(self.opened)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaderState:
        """Read plain values.

        Raises:
            StateMismatchError: they are not a state of this release, or of a loader that keeps no order.
        """
        if values.get("format") not in (FORMAT, _FORMAT_AHEAD):
            raise StateMismatchError(
                "the state is not a state of this reader",
                expected=f"format {FORMAT} or {_FORMAT_AHEAD}",
                got=str(values.get("format")),
                fix="A StatefulDataLoader's state goes to its loader, or through merge_states to the dataset.",
            )
        if values.get("loose"):
            raise StateMismatchError(
                "the state is of a StatefulDataLoader with in_order=False, which does not say what was received",
                fix="Use in_order=True, or a plain DataLoader in `for batch in dataset.track(loader)`.",
            )
        try:
            base = Position(int(values["epoch"]), int(values["start"]), tuple(int(g) for g in values["done"]))
            return cls(
                pins=dict(values["pins"]),
                base=base,
                shard=int(values["shard"]),
                shards=int(values["shards"]),
                steps=int(values["steps"]),
                ahead=tuple(int(n) for n in values.get("ahead", ())),
                opened=dict(values.get("opened", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatchError(f"the state is damaged: {error}", fix="Load another checkpoint.") from None

    def check(self, pins: Mapping[str, Any], opened: Mapping[str, Any] | None = None) -> None:
        """Compare with a reader's own pins.

        Args:
            pins: The reader's.
            opened: Its version and options, for the message.

        Raises:
            StateMismatchError: names what differs, and what to open the reader with.
        """
        for name in {**pins, **self.pins}:
            if self.pins.get(name) != pins.get(name):
                raise self._mismatch(name, pins, opened if opened is not None else {})

    def _mismatch(self, name: str, pins: Mapping[str, Any], opened: Mapping[str, Any]) -> StateMismatchError:
        """The error for a pin that differs, in terms of what the reader was opened with where the state says so."""
        what = f"the state belongs to {_OTHERS.get(name, f'another {name}')}"
        saved, own = self.opened.get("version"), opened.get("version")
        if name == "order":
            epoch = self.base.epoch
            return StateMismatchError(
                f"{what}: a release saved it that dealt units to splits otherwise",
                expected=f"order {pins.get(name)}",
                got=f"order {self.pins.get(name, 1)}",
                fix=f"Finish epoch {epoch} with that release, or begin it anew by set_epoch({epoch}), or the next by "
                f"set_epoch({epoch + 1}).",
            )
        if name == "snapshots" and None not in (saved, own) and saved != own:
            return StateMismatchError(
                what, expected=f"version {own}", got=f"saved at version {saved}", fix=f"Open with version={saved}."
            )
        was, now = self.opened.get("options", {}), opened.get("options", {})
        # One option may change several pins, such as filters the number of splits that the reader chooses: all that
        # differ are named, whichever pin was the first.
        differing = {o: (was[o], now[o]) for o in now if o in was and was[o] != now[o]}
        if name in ("seed", "splits") and (not differing or name in differing):
            # The pin's own value: a number of splits may have been chosen by the reader.
            differing[name] = (self.pins.get(name), pins.get(name))
        if name == "splits" and name not in differing:
            what = "the state belongs to other options"
        if not differing:
            return StateMismatchError(
                what,
                expected=str(pins.get(name)),
                got=str(self.pins.get(name)),
                fix="Open the reader as it was when the state was saved.",
            )
        return StateMismatchError(
            what,
            expected=", ".join(f"{o}={_text(new)}" for o, (_, new) in differing.items()),
            got=", ".join(f"{o} was {_text(old)}" for o, (old, _) in differing.items()),
            fix="Open with " + ", ".join(f"{o}={_text(old)}" for o, (old, _) in differing.items()) + ".",
        )

    @property
    def lockstep(self) -> Position:
        """The position when every shard has received as many batches as this one.

        Raises:
            StateMismatchError: one of several shards received batches out of order, so the others are not in step.
        """
        if self.ahead and self.shards > 1:
            raise StateMismatchError(
                f"the state is of one of {self.shards} ranks, and its batches were received out of order",
                expected="one state for all ranks",
                fix="Join the states of all ranks with merge_states, or use DataLoader(in_order=True).",
            )
        shards = [(s, self.shards, self.steps) for s in range(self.shards)]
        return self.base.after(shards, [(self.shard, self.shards, self.ahead)])


def _text(value: Any) -> str:
    """An option's value in a message, as Python writes it."""
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _reader_states(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The iterators' states inside a torchdata StatefulDataLoader's, one for each worker; else the state itself."""
    if "format" in state:
        return [state]
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
    if state.get("_steps_since_snapshot") and not any(inner.get("loose") for inner in found):
        raise StateMismatchError(
            "the loader's state is older than its last batch", fix="Leave snapshot_every_n_steps at 1."
        )
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
    merged = first.base.after(
        [(s.shard, s.shards, s.steps) for s in read], [(s.shard, s.shards, s.ahead) for s in read]
    )
    return ReaderState(first.pins, merged, opened=first.opened).to_dict()
