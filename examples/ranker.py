"""A ranker on a dataset: the history is encoded on R request rows, its vector repeated for the B impressions.

python examples/ranker.py --build complete-journey --above 1     (did they buy more than one of it?)
python examples/ranker.py --build ebnerd                         (did they click? EBNERD_DIR names the data)
python examples/ranker.py --dataset clicks --config conf/cluster.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dedup_storage.reader import DedupBatch
from examples._data import Columns
from examples._models import HistoryEncoder, ItemTable
from examples._run import run

__all__ = ["Ranker"]


class Ranker(nn.Module):
    """Probability that an impression is a positive, from the user's history and the item.

    The layers after ``expand`` see B rows: their batch norm is a plain one. Over several ranks convert it with
    ``nn.SyncBatchNorm.convert_sync_batchnorm``.

    Args:
        columns: What to read.
        width: Width of the vectors.
        length: Newest events of a history.
    """

    def __init__(self, columns: Columns, width: int, length: int) -> None:
        super().__init__()
        self.columns = columns
        self.items = ItemTable(1 << 14, width)
        self.history = HistoryEncoder(self.items, width, length, columns.history)
        self.head = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.BatchNorm1d(2 * width), nn.ReLU(), nn.Linear(2 * width, 1)
        )

    def forward(self, batch: DedupBatch) -> Tensor:
        """(B,) logits."""
        users = batch.expand(self.history(batch))
        items = self.items(batch.item_ids())
        logits: Tensor = self.head(torch.cat([users, items, users * items], 1)).squeeze(1)
        return logits

    def loss(self, batch: DedupBatch) -> Tensor:
        """Binary cross-entropy over the batch's impressions."""
        logits = self(batch)
        return F.binary_cross_entropy_with_logits(logits, self.columns.positives(batch).to(logits.dtype))


if __name__ == "__main__":
    run(Ranker, "Ranker", negatives=True)
