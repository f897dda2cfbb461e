"""What an erasure reports, which is also its receipt: counts and a digest, never ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.lake.upkeep import Remains, TableErasure

__all__ = ["ForgetSummary", "content_digest", "scanned", "signed"]


class ForgetSummary(BaseModel):
    """What an erasure did; with ``dry_run``, what it would do. The JSON of a done one is its receipt.

    Attributes:
        dataset, run_id: Which.
        dataset_id: What tells the dataset from others, also of its name.
        dry_run: Nothing was changed.
        users: Ids given, each once.
        not_found: Those of them that had no row in any file.
        users_digest: A digest of all ids together, slow to compute and salted, by which ``--verify`` knows the list
            again; ``None`` in a dry run.
        version: The current version afterwards.
        versions_rewritten: Kept versions that held rows of the users, and are made anew without them.
        clean: Whether the final scan found none of the users and could read all files; ``None`` in a dry run.
        tables: One entry for each table with the user column. A run that was stopped and gone on with tells what was
            there when it began.
        erased_at: When it was done (UTC); ``None`` in a dry run.
        digest: SHA-256 of all the rest, as ``content_digest`` computes it; ``None`` in a dry run.
        seconds: Wall time by step.
        already_done: The run was done before, and this is the receipt of then; no part of the JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    dataset_id: str | None = None
    dry_run: bool
    users: int
    not_found: int = 0
    users_digest: str | None = None
    version: int
    versions_rewritten: tuple[int, ...] = ()
    clean: bool | None = None
    tables: tuple[TableErasure, ...] = ()
    erased_at: str | None = None
    digest: str | None = None
    seconds: dict[str, float] = {}
    already_done: bool = Field(default=False, exclude=True)


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a receipt's content: its JSON without ``digest``, keys sorted, without blanks, in ASCII."""
    told = {key: value for key, value in content.items() if key != "digest"}
    return sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def scanned(found: ForgetSummary, remains: Mapping[str, Remains], version: int) -> ForgetSummary:
    """What was found before an erasure, with what its final scan found.

    Args:
        found: What the erasure found when it began.
        remains: What is left in each table.
        version: The current version now.
    """
    before = {table.table: table for table in found.tables}
    tables = (
        before.get(name, TableErasure(table=name, rows=0, files=0)).model_copy(
            update={
                "files_read": left.files,
                "rows_left": left.rows,
                "unreadable_files": left.unreadable,
                "bounds_left": left.bounds,
            }
        )
        for name, left in remains.items()
    )
    clean = all(left.clean for left in remains.values())
    return found.model_copy(update={"version": version, "clean": clean, "tables": tuple(tables)})


def signed(summary: ForgetSummary) -> ForgetSummary:
    """The report with its time and the digest of its content."""
    dated = summary.model_copy(update={"erased_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "digest": None})
    return dated.model_copy(update={"digest": content_digest(dated.model_dump(mode="json"))})
