"""What an erasure reports: counts, never ids."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

from pydantic import BaseModel, ConfigDict

from dedup_storage.lake.upkeep import TableErasure

__all__ = ["ForgetSummary", "signed"]


class ForgetSummary(BaseModel):
    """What an erasure did; with ``dry_run``, what it would do.

    Attributes:
        dataset, run_id: Which.
        dry_run: Nothing was changed.
        users: Ids given, each once.
        not_found: Those of them that have no row in the current version.
        version: The current version afterwards.
        versions_rewritten: Earlier versions whose content was made anew without the users.
        clean: Whether the scan of all files found none of the users; ``None`` in a dry run.
        tables: One entry for each table with the user column.
        signed: Time (UTC) and the digest of this report without this line, to be kept as a receipt.
        seconds: Wall time by step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    dry_run: bool
    users: int
    not_found: int = 0
    version: int
    versions_rewritten: tuple[int, ...] = ()
    clean: bool | None = None
    tables: tuple[TableErasure, ...] = ()
    signed: str | None = None
    seconds: dict[str, float] = {}


def signed(summary: ForgetSummary) -> ForgetSummary:
    """The report with its time and digest; a dry run's stays as it is."""
    if summary.clean is None:
        return summary
    digest = sha256(summary.model_dump_json().encode()).hexdigest()
    return summary.model_copy(update={"signed": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} sha256:{digest}"})
