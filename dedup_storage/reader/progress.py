"""Where a batch stands in its epoch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a batch stands in the epoch's sequence of batches.

    Attributes:
        epoch: Its epoch.
        index: Its place in the whole sequence, the same for any number of ranks and workers.
        place: Its place among the batches that were left when this iteration began.
        split: The logical split it was dealt from.
        repeated: Whether it repeats an earlier batch, to give every rank equally many.
        continues: With ``oversize='split'``: its first request began in the split's batch before.
        continued: Its last request goes on in the split's next batch.
    """

    epoch: int = 0
    index: int = 0
    place: int = 0
    split: int = 0
    repeated: bool = False
    continues: bool = False
    continued: bool = False
