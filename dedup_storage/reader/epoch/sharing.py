"""Workers of a rank that share the decoding: each makes the batches of some splits for all of them.

A worker's turns fall on every split as soon as one has come to its end, or where there are not as many splits for each
worker. To come to a split in its middle means to decode its row group from the beginning, so each split has one maker,
and who has a turn in another's asks for the batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import inf
from time import monotonic

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.epoch.desk import close_desk, open_desk
from dedup_storage.reader.epoch.fellows import Fellows
from dedup_storage.reader.epoch.peers import Peers
from dedup_storage.reader.epoch.splits import Splits
from dedup_storage.reader.epoch.turns import Turn

__all__ = ["Shared"]

# Batches that wait for their turn, or for another worker, at most. Who lags further behind makes its own.
_MOST_WAITING = 32
# What others are owed is kept so long for somebody who does not ask.
_QUIET_SECONDS = 4.0
_POLL_SECONDS = 0.01


class Shared:
    """Makes the batches of some splits for all workers of a rank, and asks the others for those of theirs.

    Each split's batches are made in order, whoever needs them; what is not its turn yet waits. Other workers ask in
    threads of their own, so one lock stands before all that is made here.

    Args:
        rounds: The turns of all workers of the rank.
        makers: Maker of each split.
        here: The workers.
        what: What the pass reads.
        world_size: Ranks.
        steps: Turns that this worker has behind it.
        splits: The splits.
        make: Makes the batch of a turn.
        stop: Whoever sets it takes no further batch.
    """

    def __init__(
        self,
        rounds: Iterator[Turn],
        makers: Sequence[int],
        here: Fellows,
        what: str,
        world_size: int,
        steps: int,
        splits: Splits,
        make: Callable[[Turn], DedupBatch],
        stop: threading.Event,
    ) -> None:
        self._makers, self._here, self._world_size, self._steps = makers, here, world_size, steps
        self._splits, self._make, self._stop = splits, make, stop
        # Workers whose steps were counted one by one, as a loader's own state has them, may be one turn behind.
        self._rounds = islice(rounds, max(steps - 1, 0) * here.workers, None)
        self._lock = threading.Lock()
        self._walked = -1
        self._failed: Exception | None = None
        self._own: deque[Turn] = deque()
        # Turns in this worker's splits that are not made yet, and batches that are, with their turns.
        self._owed: dict[int, deque[Turn]] = {}
        self._waiting: dict[tuple[int, int], tuple[Turn, DedupBatch]] = {}
        # Place of what each other worker has asked for last; how many are on their way; when the last was asked for.
        self._asked: dict[int, float] = {}
        self._giving, self._heard = 0, 0.0
        self._closed = False
        # Places that another worker was asked for, and who; splits that this one makes for itself all the same.
        self._requested: dict[int, int] = {}
        self._alone: set[int] = set()
        self._peers = Peers(here, what, stop)
        self._open = open_desk(here, what, self)
        self.turns = self._turns()

    def _worker(self, turn: Turn) -> int:
        """Whose turn it is."""
        return turn.place // self._world_size % self._here.workers

    def _is_ahead(self, turn: Turn) -> bool:
        """Whether it lies behind the turns that this worker had when it began."""
        return turn.place // self._world_size // self._here.workers >= self._steps

    def _maker(self, turn: Turn) -> int:
        """Who makes its batch. What only fills the last round is made by whose turn it is."""
        return self._here.worker if turn.split < 0 or turn.repeated else self._makers[turn.split]

    # -- whose turn it is ---------------------------------------------------------------------------------------
    def _turns(self) -> Iterator[Turn]:
        while True:
            with self._lock:
                while not self._own and self._walk():
                    continue
                if not self._own:
                    return
                turn = self._own.popleft()
            yield turn

    def _walk(self) -> bool:
        """Look at one more turn of the rank; whether there was one."""
        if self._failed is not None:
            # What failed has ended the walk: there would seem to be no further turn.
            raise self._failed
        try:
            turn = next(self._rounds, None)
        except Exception as error:
            self._failed = error
            raise
        if turn is None:
            return False
        self._walked = turn.place
        own = self._worker(turn) == self._here.worker
        if own and not self._is_ahead(turn):
            return True
        if own:
            self._own.append(turn)
        if turn.split >= 0 and not turn.repeated and self._makers[turn.split] == self._here.worker:
            self._owed.setdefault(turn.split, deque()).append(turn)
        return True

    # -- this worker's turns ------------------------------------------------------------------------------------
    def prepare(self, turn: Turn) -> None:
        """Begin to decode what a coming turn needs first, or ask for its batch."""
        maker = self._maker(turn)
        if maker != self._here.worker and turn.split not in self._alone:
            if self._peers.ask(maker, turn.place, turn.split, turn.number):
                self._requested[turn.place] = maker
                return
            self._alone.add(turn.split)
        if turn.split >= 0:
            with self._lock:
                owed = self._owed.get(turn.split)
                first = min(owed[0].number, turn.number) if owed else turn.number
                self._splits.prepare(turn.split, first)

    def batch(self, turn: Turn) -> DedupBatch | None:
        """A turn's batch, from whoever makes it; ``None`` where nobody wants it any more."""
        maker = self._requested.pop(turn.place, None)
        if maker is not None:
            found = self._peers.receive(maker)
            if found is not None or self._stop.is_set():
                return found
            self._alone.add(turn.split)
        with self._lock:
            made = self._take(turn) if self._maker(turn) == self._here.worker and not turn.repeated else None
            return made if made is not None else self._make(turn)

    def _take(self, turn: Turn) -> DedupBatch | None:
        """The batch of a turn in a split of this worker's; ``None`` if it was made, or passed over, before."""
        key = turn.split, turn.number
        if key in self._waiting:
            return self._waiting.pop(key)[1]
        owed = self._owed.get(turn.split)
        while owed and owed[0].number <= turn.number:
            first = owed.popleft()
            if first.number == turn.number:
                return self._make(first)
            self._set_aside(first)
        return None

    def _set_aside(self, turn: Turn) -> None:
        """Make a batch before its turn, since its split goes on."""
        worker = self._worker(turn)
        if turn.place < self._asked.get(worker, -1) or len(self._waiting) >= _MOST_WAITING:
            return
        try:
            self._waiting[turn.split, turn.number] = turn, self._make(turn)
        except Exception:  # noqa: BLE001 - whoever makes it in its turn is told
            self._splits.drop(turn.split)

    # -- other workers' turns -----------------------------------------------------------------------------------
    def give(self, worker: int, place: int, split: int, number: int) -> DedupBatch | None:
        """A batch that is another worker's turn; ``None`` where it must make it itself."""
        with self._lock:
            self._giving += 1
            self._heard = monotonic()
            self._pass(worker, place)
            if self._closed or self._makers[split] != self._here.worker:
                return None
            try:
                while self._walked < place and self._walk():
                    continue
                before = [t for t in self._owed.get(split, ()) if t.number < number]
                if len(before) + len(self._waiting) > _MOST_WAITING:
                    return None
                return self._take(Turn(place, -1, split, number))
            except Exception:  # noqa: BLE001 - the other worker meets it too, and tells it in its place
                self._splits.drop(split)
                return None

    def given(self) -> None:
        """What was given last has gone out."""
        with self._lock:
            self._giving -= 1

    def gone(self, worker: int) -> None:
        """A worker asks for nothing more."""
        with self._lock:
            self._pass(worker, inf)

    def _pass(self, worker: int, place: float) -> None:
        """Forget what a worker does not ask for any more: it asks in the order of its turns."""
        self._asked[worker] = place
        for key, (turn, _) in list(self._waiting.items()):
            if turn.place < place and self._worker(turn) == worker:
                del self._waiting[key]

    def _owes(self) -> bool:
        """Whether other workers will ask for more."""
        with self._lock:
            left = [turn for owed in self._owed.values() for turn in owed]
            left += [turn for turn, _ in self._waiting.values()]
            theirs = [turn for turn in left if self._worker(turn) != self._here.worker and self._is_ahead(turn)]
            return self._giving > 0 or any(t.place >= self._asked.get(self._worker(t), -1) for t in theirs)

    def end(self) -> None:
        """Wait until other workers have what they are owed: a loader ends the process of who has no further turn."""
        # Who waits for this worker need not.
        self._peers.close()
        begin = monotonic()
        while self._open and self._owes() and not self._stop.wait(_POLL_SECONDS):
            if monotonic() - max(begin, self._heard) > _QUIET_SECONDS:
                return

    def close(self) -> None:
        """Make nothing more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._owed.clear()
        close_desk(self._here, self)
        self._peers.close()
