"""What the main process and its workers share, and what cannot cross between them."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from dedup_storage.errors import ConfigError, StateMismatchError
from dedup_storage.reader.state import Position

__all__ = ["SharedPosition", "check_picklable"]

_EPOCH, _BASE_EPOCH, _START, _COUNT, _PASSES, _READ, _LOOSE, _WARNED, _DONE = range(9)
_MOST_DONE = 65_536


class SharedPosition:
    """The epoch to read, the position that was loaded, and what workers did since, in shared memory."""

    def __init__(self) -> None:
        self._cells = torch.zeros(_DONE + _MOST_DONE, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration reads."""
        return int(self._cells[_EPOCH])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._cells[_EPOCH] = epoch

    @property
    def worker_passes(self) -> int:
        """Passes over the dataset that workers have begun."""
        return int(self._cells[_PASSES])

    def begin_worker_pass(self) -> None:
        """Count a pass; called by the first worker of it."""
        self._cells[_PASSES] += 1

    @property
    def read_epoch(self) -> int | None:
        """The epoch that was read to its end last."""
        return int(self._cells[_READ]) - 1 if self._cells[_READ] else None

    @read_epoch.setter
    def read_epoch(self, epoch: int | None) -> None:
        self._cells[_READ] = 0 if epoch is None else epoch + 1

    @property
    def loose(self) -> bool:
        """Whether several workers' batches reach the trainer in any order."""
        return bool(self._cells[_LOOSE])

    @loose.setter
    def loose(self, loose: bool) -> None:
        self._cells[_LOOSE] = int(loose)

    def warned_once(self) -> bool:
        """Whether this was asked before, by any process."""
        before = bool(self._cells[_WARNED])
        self._cells[_WARNED] = 1
        return before

    @property
    def base(self) -> Position:
        """The position that was loaded last."""
        cells = self._cells
        done = cells[_DONE : _DONE + int(cells[_COUNT])].tolist()
        return Position(int(cells[_BASE_EPOCH]), int(cells[_START]), tuple(done))

    def load(self, base: Position) -> None:
        """Begin at a position.

        Raises:
            StateMismatchError: ranks were too far apart to be described.
        """
        if len(base.done) > _MOST_DONE:
            raise StateMismatchError(
                "the merged ranks are too far apart", expected=f"at most {_MOST_DONE} batches", got=str(len(base.done))
            )
        self._cells[_DONE : _DONE + len(base.done)] = torch.tensor(base.done, dtype=torch.int64)
        self._cells[_COUNT] = len(base.done)
        self._cells[_START] = base.start
        self._cells[_BASE_EPOCH] = base.epoch
        self._cells[_EPOCH] = base.epoch


def check_picklable(option: str, hook: Callable[..., Any] | None) -> None:
    """Refuse a hook that cannot reach a spawned worker.

    Raises:
        ConfigError: names the option and the function.
    """
    try:
        ForkingPickler.dumps(hook)
    except Exception as error:  # noqa: BLE001 - a hook may fail in any way
        name = getattr(hook, "__qualname__", type(hook).__name__)
        raise ConfigError(
            f"{option}={name} cannot be sent to a worker process: {error}",
            expected="a function at the top level of a module, or an object that can be pickled",
            fix="Move it there, or start workers with multiprocessing_context='fork'.",
        ) from None
