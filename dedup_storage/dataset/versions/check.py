"""The quality suite on a version that is published."""

from __future__ import annotations

from pathlib import Path

from dedup_storage.dataset.features.verify import verify_groups
from dedup_storage.dataset.handle import Handle
from dedup_storage.layout import Layout, TableRole
from dedup_storage.quality import GateFacts, run_gate
from dedup_storage.quality.model import Verdict
from dedup_storage.spark.errors import translated

__all__ = ["check_version"]


def check_version(handle: Handle, version: int | None = None) -> Verdict:
    """Run the quality suite on a published version and its feature groups; gives the verdict.

    Rows of a group that a refresh would compute anyway are not judged.
    """
    with translated():
        cut = handle.cut(version)
        split = handle.spec.layout is Layout.SPLIT
        verdict = run_gate(
            spec=handle.spec,
            settings=handle.settings,
            run_id=f"check-v{cut.version}",
            facts=GateFacts(inconstant_requests=0 if split else None),
            requests=cut.log_rows(TableRole.REQUESTS) if split else None,
            impressions=cut.log_rows(TableRole.IMPRESSIONS) if split else None,
            logs=None if split else cut.log_rows(TableRole.LOGS),
        )
        group_verdicts = list(verify_groups(cut, verdict.run_id))
        for name, group_verdict in group_verdicts:
            verdict = verdict.with_group(name, group_verdict)
        if group_verdicts:
            verdict.save(Path(verdict.docs))
        return verdict
