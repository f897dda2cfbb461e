"""What the jobs on feature groups report."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from dedup_storage.lake.cells import shown_ranges

__all__ = ["FeatureSummary"]


class FeatureSummary(BaseModel):
    """What a job did to a feature group.

    Attributes:
        dataset, group, run_id: Which; of ``bundle-features`` the bundle's name.
        groups: Groups that were bundled.
        job: ``add-features``, ``refresh-features``, ``rename-features``, ``drop-features``, ``promote-features`` or
            ``bundle-features``.
        version: The version that holds the result; the newest one when nothing was to do, and of a dry run.
        dry_run: Nothing was done: what would be.
        already_published: The run id was published before; nothing was done now.
        up_to_date: Nothing had changed since the group was computed; no version was made.
        grain: What one row stands for.
        table: The table written to.
        columns: Columns of the group.
        dates: Half-open ranges of event dates that were computed; empty texts are no bounds.
        buckets: User buckets that were computed; ``None`` for all.
        replaced: Whether rows of these segments were replaced (else they are new).
        rows, bytes, files: What was written; of a dry run the rows alone, ``None`` where computing them alone tells.
        gate: ``passed``, ``off``, or ``not asked`` by a dry run.
        docs: Where the gate's verdict and Data Docs lie.
        seconds: Wall time by step.
        hints: Advice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    group: str
    run_id: str
    job: str
    version: int
    dry_run: bool = False
    already_published: bool = False
    up_to_date: bool = False
    groups: tuple[str, ...] = ()
    grain: str = ""
    table: str = ""
    columns: tuple[str, ...] = ()
    dates: tuple[tuple[str, str], ...] = ()
    buckets: tuple[int, ...] | None = None
    replaced: bool = False
    rows: int | None = 0
    bytes: int = 0
    files: int = 0
    gate: str = "off"
    docs: str | None = None
    seconds: dict[str, float] = {}
    hints: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """The summary for people: dates by first and last day, and nothing that does not apply."""
        told = {name: getattr(self, name) for name in type(self).model_fields}
        if self.already_published or self.up_to_date:
            kept = ("dataset", "group", "run_id", "version", "already_published", "up_to_date", "hints")
            return {name: told[name] for name in kept if told[name] not in (False, ())}
        untold = {"job", "dry_run", "already_published", "up_to_date"}
        if self.dry_run:
            untold |= {"bytes", "files", "seconds"}
        if self.job not in ("add-features", "refresh-features") and self.gate == "off":
            # The others compute no value that the gate could judge.
            untold |= {"gate"}
        if not self.dates:
            untold |= {"dates", "replaced"} | ({"rows", "bytes", "files"} if not self.files else set())
        dates = {"dates": shown_ranges(self.dates)} if self.dates else {}
        return {name: value for name, value in told.items() if name not in untold} | dates
