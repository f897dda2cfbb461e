"""Versions by name: listed, kept, given up, brought back."""

from __future__ import annotations

from typing import Any

from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import VersionNotFoundError, known_names
from dedup_storage.lake.history import VersionInfo
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.publishing import require_same, require_same_buckets
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import named_run, new_attempt
from dedup_storage.schema import check_name
from dedup_storage.spark.errors import translated

__all__ = ["list_versions", "pin", "rollback", "unpin"]


def list_versions(handle: Handle) -> list[VersionInfo]:
    """Published versions, oldest first."""
    meta = handle.metadata()
    return [meta.info(version) for version in meta.version_numbers]


def rollback(handle: Handle, version: int, run_id: str | None = None) -> VersionInfo:
    """Publish an older version's content as the newest version.

    Raises:
        VersionNotFoundError: there is no such version.
        UsageError: it has another number of user buckets.
    """
    with translated():
        meta = handle.tables.settle(handle.spec)
        meta.resolve(version)
        run_id = named_run(run_id, "rollback")
        asked = Request.of("rollback", version=version)
        if require_same(meta, asked.text, run_id) is None:
            require_same_buckets(meta, version)
        attempt = new_attempt(run_id)
        run = Run(run_id=run_id, job="rollback", attempt=attempt, base=meta.current, facts=asked.facts)
        published = handle.tables.rollback(handle.spec, run, version)
        return handle.metadata().info(published)


def pin(handle: Handle, version: int | None = None, label: str = "kept") -> dict[str, Any]:
    """Keep a version through expiry; what names it for good, as plain values for a JSON file."""
    check_name(label, "pin label")
    with translated():
        cut = handle.cut(version)
        handle.tables.pin(handle.spec, cut.version, label)
        return {"dataset": handle.name, "version": cut.version, "label": label, "snapshots": cut.snapshots}


def unpin(handle: Handle, label: str) -> None:
    """Let expiry have a pinned version again.

    Raises:
        VersionNotFoundError: no version is pinned under that label.
    """
    check_name(label, "pin label")
    with translated():
        versions = list_versions(handle)
        pinned = [info for info in versions if label in info.pins]
        if not pinned:
            labels = sorted({other for info in versions for other in info.pins})
            raise VersionNotFoundError(
                f"no version of the dataset {handle.name} is pinned as {label}",
                expected=known_names(label, labels) if labels else None,
                fix="List versions and their pins with: dedup-storage versions list.",
            )
        for info in pinned:
            handle.tables.unpin(handle.spec, info.version, label)
