"""Keeping a dataset healthy: sorted segments, few versions, no orphans, erased users.

Needs: a handle; ``dataset.backfill`` for parts.
Gives: ``Maintenance``, ``Forgetting`` and their summaries; ``verify_erasure`` and what it finds.
May import: ``dataset.backfill``, ``sources``, ``lake``.
"""

from dedup_storage.dataset.upkeep.decay import Limits, SegmentDecay, measure_decay
from dedup_storage.dataset.upkeep.forget import Forgetting
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary
from dedup_storage.dataset.upkeep.maintain import Maintenance
from dedup_storage.dataset.upkeep.maintain_summary import MaintainSummary
from dedup_storage.dataset.upkeep.verify import ErasureProof, verify_erasure
from dedup_storage.lake.upkeep import Policy

__all__ = [
    "ErasureProof",
    "ForgetSummary",
    "Forgetting",
    "Limits",
    "MaintainSummary",
    "Maintenance",
    "Policy",
    "SegmentDecay",
    "measure_decay",
    "verify_erasure",
]
