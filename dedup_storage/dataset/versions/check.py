"""The quality suite on a version that is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dedup_storage.dataset.features.verify import verify_groups
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.versions.lists import list_checks
from dedup_storage.lake.pages import page_damages
from dedup_storage.lake.wholeness import DEEP_KINDS, KINDS, Damage
from dedup_storage.layout import TableRole
from dedup_storage.quality import GateFacts, run_gate
from dedup_storage.quality.gate import docs_directory
from dedup_storage.quality.model import CheckResult, Verdict
from dedup_storage.spark.errors import translated

__all__ = ["check_version"]

# Kinds of damage with which a version cannot be read whole.
_UNREADABLE = ("tables", "files", *DEEP_KINDS)
_MOST_NAMED = 3


def check_version(handle: Handle, version: int | None = None, *, deep: bool = False) -> Verdict:
    """Prove a published version whole, and run the quality suite on it and its feature groups; gives the verdict.

    Rows of a group that a refresh would compute anyway are not judged. A version that lacks files is not read.

    Args:
        handle: The dataset.
        version: ``None`` takes the newest.
        deep: Read every page of every file too, by Spark's tasks.
    """
    with translated():
        cut = handle.cut(version)
        damages = handle.tables.damages(cut.meta, cut.version)
        if deep:
            damages += page_damages(handle.spark, handle.tables.stored_files(cut.meta, cut.version))
        whole = _wholeness(damages, deep=deep)
        if any(damage.kind in _UNREADABLE for damage in damages):
            return _broken(handle, cut.version, whole)
        split = cut.spec.layout.divided
        verdict = run_gate(
            spec=cut.spec,
            settings=handle.settings,
            run_id=f"check-v{cut.version}",
            facts=GateFacts(inconstant_requests=0 if split else None),
            requests=cut.log_rows(TableRole.REQUESTS) if split else None,
            impressions=cut.log_rows(TableRole.IMPRESSIONS) if split else None,
            logs=None if split else cut.log_rows(TableRole.LOGS),
        )
        verdict = _joined(verdict, (*whole, *list_checks(cut)))
        group_verdicts = list(verify_groups(cut, verdict.run_id))
        for name, group_verdict in group_verdicts:
            verdict = verdict.with_group(name, group_verdict)
        # Groups that a refresh would compute anew are not judged, which shall be seen.
        judged = {name for name, _ in group_verdicts}
        untold = {f"features.{name}.log_keys": 0 for name in cut.groups if name not in judged}
        verdict = verdict.model_copy(update={"facts": {**verdict.facts, **untold}})
        verdict.save(Path(verdict.docs))
        return verdict


def _wholeness(damages: Sequence[Damage], *, deep: bool) -> tuple[CheckResult, ...]:
    """One check a kind of damage; what is wrong stands in the words of its rule."""
    found = []
    for kind, rule in KINDS.items():
        if kind in DEEP_KINDS and not deep:
            continue
        broken = [damage for damage in damages if damage.kind == kind]
        named = "; ".join(damage.text for damage in broken[:_MOST_NAMED])
        more = f" and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
        found.append(
            CheckResult(
                name=f"version.{kind}",
                grain="dataset",
                column=None,
                passed=not broken,
                observed=len(broken),
                expected=f"{rule} ({named}{more})" if broken else rule,
                unexpected_count=len(broken),
            )
        )
    return tuple(found)


def _joined(verdict: Verdict, checks: tuple[CheckResult, ...]) -> Verdict:
    passed = verdict.passed and all(check.passed for check in checks)
    return verdict.model_copy(update={"passed": passed, "checks": (*checks, *verdict.checks)})


def _broken(handle: Handle, version: int, checks: tuple[CheckResult, ...]) -> Verdict:
    """The verdict on a version of which not every row can be read."""
    run_id = f"check-v{version}"
    docs = docs_directory(spec=handle.spec, settings=handle.settings, run_id=run_id)
    verdict = Verdict(passed=False, dataset=handle.name, run_id=run_id, checks=checks, facts={}, docs=str(docs))
    docs.mkdir(parents=True, exist_ok=True)
    verdict.save(docs)
    return verdict
