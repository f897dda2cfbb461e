"""Two-tower retrieval on a dataset: the user tower runs on R request rows, the loss masks the user's own impressions.

python examples/two_tower.py --build complete-journey
python examples/two_tower.py --build ebnerd                      (EBNERD_DIR names the data)
python examples/two_tower.py --dataset clicks --config conf/cluster.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dedup_storage.reader import DedupBatch
from dedup_storage.training import StreamingLogQ, user_masked_info_nce
from examples._data import Columns
from examples._models import HistoryEncoder, ItemTable
from examples._run import run

__all__ = ["TwoTower"]


class TwoTower(nn.Module):
    """Vectors of users and items whose product says how well they fit.

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
        self.user_head, self.item_head = nn.Linear(width, width), nn.Linear(width, width)
        self.log_q = StreamingLogQ(1 << 16)

    def forward(self, batch: DedupBatch) -> tuple[Tensor, Tensor]:
        """(R, width) user vectors and (B, width) item vectors, of length 1."""
        users = self.user_head(self.history(batch))
        items = self.item_head(self.items(batch.item_ids()))
        return F.normalize(users, dim=1), F.normalize(items, dim=1)

    def loss(self, batch: DedupBatch) -> Tensor:
        """Of the items that the users chose, against the other users' candidates."""
        users, items = self(batch)
        ids = batch.item_ids()
        self.log_q.update(ids)
        result = user_masked_info_nce(
            users,
            items,
            batch.user_ids("impression"),
            ids,
            inverse_indices=batch.inverse_indices,
            log_q=self.log_q(ids),
            positives=self.columns.positives(batch),
            temperature=0.1,
        )
        return result.loss


if __name__ == "__main__":
    run(TwoTower, "Two-tower retrieval")
