"""Building blocks of both models: an item table by hashing, and a history encoder that runs on request rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dedup_storage.reader import DedupBatch
from dedup_storage.training import CountWeightedBatchNorm1d

__all__ = ["HistoryEncoder", "ItemTable"]


class ItemTable(nn.Module):
    """Embeddings of item ids, hashed into a fixed number of rows; row 0 is no item."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = rows
        self.table = nn.Embedding(rows + 1, width, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 ids -> (..., width)."""
        # As ``Column.buckets``, here for ids that were padded.
        mixed = (ids * -7046029254386353131) >> 20
        embedded: Tensor = self.table(mixed.remainder(self.rows) + 1)
        return embedded


class HistoryEncoder(nn.Module):
    """A user vector from the newest events of a history: self-attention, then count-weighted batch norm.

    It sees R request rows. The norm weighs each with its impressions, so that the vectors, repeated for the
    impressions, are those that B rows with ``nn.BatchNorm1d`` would give.
    """

    def __init__(self, items: ItemTable, width: int, length: int, history: str) -> None:
        super().__init__()
        self.items, self.length, self.history = items, length, history
        self.positions = nn.Parameter(torch.randn(length + 1, width) / width**0.5)
        self.attention = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.norm = CountWeightedBatchNorm1d(width)

    def forward(self, batch: DedupBatch) -> Tensor:
        """(R, width)."""
        column = batch[self.history]
        ids = column.to_padded(self.length)
        there = torch.arange(self.length, device=ids.device) >= self.length - column.lengths[:, None]
        tokens = self.items(ids) * there[..., None]
        # A first token of no item gathers the rest, and gives users without a history something to attend to.
        first = tokens.new_zeros(len(tokens), 1, tokens.shape[2])
        padding = torch.cat([there.new_zeros(len(there), 1), ~there], 1)
        encoded = self.attention(torch.cat([first, tokens], 1) + self.positions, src_key_padding_mask=padding)
        normal: Tensor = self.norm(encoded[:, 0], batch.counts())
        return normal
