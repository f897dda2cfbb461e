"""What training on batches of whole requests needs; torch alone.

``DedupBatch.expand`` is an ``index_select``. Its backward pass adds the gradients of a request's impressions with
atomic operations on CUDA, in no fixed order: the last bits differ from run to run unless
``torch.use_deterministic_algorithms(True)`` is set (matrix products want ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` as well).
On the CPU it is deterministic.
"""

from __future__ import annotations

from dedup_storage.training.diagnostics import BatchStatistics, OrderReport, diagnose_order
from dedup_storage.training.info_nce import InfoNCE, user_masked_info_nce
from dedup_storage.training.labels import design_effect, intraclass_correlation
from dedup_storage.training.log_q import StreamingLogQ
from dedup_storage.training.masks import negative_mask
from dedup_storage.training.norm import CountWeightedBatchNorm1d, count_weighted_moments
from dedup_storage.training.ranks import RankRows, sum_over_ranks

__all__ = [
    "BatchStatistics",
    "CountWeightedBatchNorm1d",
    "InfoNCE",
    "OrderReport",
    "RankRows",
    "StreamingLogQ",
    "count_weighted_moments",
    "design_effect",
    "diagnose_order",
    "intraclass_correlation",
    "negative_mask",
    "sum_over_ranks",
    "user_masked_info_nce",
]
