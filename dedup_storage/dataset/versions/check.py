"""The quality suite on a version that is published."""

from __future__ import annotations

from pathlib import Path

from dedup_storage.dataset.features.verify import verify_groups
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.read.frames import stored_rows
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
        meta = handle.metadata()
        version = meta.resolve(version)
        split = handle.spec.layout is Layout.SPLIT
        verdict = run_gate(
            spec=handle.spec,
            settings=handle.settings,
            run_id=f"check-v{version}",
            facts=GateFacts(inconstant_requests=0 if split else None),
            requests=stored_rows(handle, TableRole.REQUESTS, version) if split else None,
            impressions=stored_rows(handle, TableRole.IMPRESSIONS, version) if split else None,
            logs=None if split else stored_rows(handle, TableRole.LOGS, version),
        )
        groups = list(verify_groups(handle, meta, version, verdict.run_id))
        for name, found in groups:
            verdict = verdict.with_group(name, found)
        if groups:
            verdict.save(Path(verdict.docs))
        return verdict
