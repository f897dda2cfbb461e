"""Labels that arrive late, merged by the time of the label.

Needs: ``dataset.backfill``, which rewrites the segments.
Gives: ``merge_labels`` and its summary, ``plan_labels`` and its plan.
May import: ``dataset.backfill``, ``sources``, ``lake``.
"""

from dedup_storage.dataset.labels.merge import LateLabelsPlan, LateLabelsSummary, merge_labels, plan_labels
from dedup_storage.dataset.labels.sorting import LateLabels

__all__ = ["LateLabels", "LateLabelsPlan", "LateLabelsSummary", "merge_labels", "plan_labels"]
