"""Labels that arrive late, merged by the time of the label.

Needs: ``dataset.backfill``, which rewrites the segments.
Gives: ``merge_labels`` and its summary.
May import: ``dataset.backfill``, ``sources``, ``lake``.
"""

from dedup_storage.dataset.labels.merge import LateLabelsSummary, merge_labels
from dedup_storage.dataset.labels.sorting import LateLabels

__all__ = ["LateLabels", "LateLabelsSummary", "merge_labels"]
