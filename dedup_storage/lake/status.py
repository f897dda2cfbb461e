"""What is under way on a dataset: a decided version, runs that staged rows or parts, versions that were given up."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from dedup_storage.errors import UsageError
from dedup_storage.lake.history import DatasetMetadata

__all__ = ["AbandonedVersion", "PendingMember", "PendingVersion", "PublicationStatus", "RunAtWork", "status_of"]

COMPLETE, HELD, GONE = "complete", "held", "gone"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PendingMember(_Frozen):
    """One table of a version that is decided and not complete.

    Attributes:
        table: Its name.
        rows, files: That the version adds to it, as the claim says; ``None`` for one decided before claims said so.
        state: ``complete`` (it is in the table), ``held`` (it waits), ``gone`` (it can never be brought in).
    """

    table: str
    rows: int | None
    files: int | None
    state: str


class PendingVersion(_Frozen):
    """A version that is decided and not complete; whoever writes next completes it.

    Attributes:
        version: Its number.
        run_id, job: What decided it.
        since_ms: When its data was staged, in milliseconds since the epoch (UTC).
        members: The tables that it changes.
    """

    version: int
    run_id: str
    job: str
    since_ms: int
    members: tuple[PendingMember, ...]

    @property
    def stuck(self) -> bool:
        """Whether it can be seen that it can never be completed; that files fit no longer shows on completing only."""
        return any(member.state == GONE for member in self.members)


class RunAtWork(_Frozen):
    """A run that works on the dataset, or was stopped there.

    Attributes:
        run_id, job: Which; the job is empty where nothing says so, and the run then the name of its branch.
        tables: Where it has staged rows or finished parts.
        holds: ``rows`` staged to be published, or finished ``parts`` of a longer work.
        since_ms: When it began, as far as it is seen, in milliseconds since the epoch (UTC).
        rows: Staged rows; ``None`` for parts.
    """

    run_id: str
    job: str
    tables: tuple[str, ...]
    holds: str
    since_ms: int
    rows: int | None = None


class AbandonedVersion(_Frozen):
    """A version that was decided and given up.

    Attributes:
        version: Its number, which is not used again.
        run_id, job: What had decided it.
        whole: Whether nothing of it is left in the tables; if not, the next writer goes on.
    """

    version: int
    run_id: str
    job: str
    whole: bool


class PublicationStatus(_Frozen):
    """What is under way on a dataset. Readers see the newest published version, whatever stands here.

    Attributes:
        dataset: Its name.
        version: The newest published version; 0 before the first.
        pending: A version that is decided and not complete.
        runs: Runs that work on it, or were stopped there.
        abandoned: Versions that were given up.
    """

    dataset: str
    version: int
    pending: PendingVersion | None = None
    runs: tuple[RunAtWork, ...] = ()
    abandoned: tuple[AbandonedVersion, ...] = ()

    @property
    def advice(self) -> str:
        """What can be done, in a line."""
        if self.pending is not None and self.pending.stuck:
            return f"Version {self.pending.version} can never be completed: versions abandon {self.pending.version}."
        if self.pending is not None:
            return f"Whoever writes next completes version {self.pending.version}."
        if self.runs:
            return "Run a stopped run again under its run id, or give it up: versions abandon --run-id RUN."
        return "Nothing is under way."

    def require_alone(self, run_id: str) -> None:
        """Refuse to begin what finds, or leaves, no other run's work right.

        Args:
            run_id: The run that asks; its own work is in nobody's way.

        Raises:
            UsageError: names the others, and what ends them; nothing was changed.
        """
        busy = [run for run in self.runs if run.run_id != run_id]
        if busy:
            named = ", ".join(f"{run.run_id} ({run.holds} in {', '.join(run.tables)})" for run in busy)
            raise UsageError(
                f"runs are at work on {self.dataset}, or were stopped there: {named}",
                fix="Nothing was changed. Let them finish, run stopped ones again under their run id, or give them up: "
                f"dedup-storage versions abandon --run-id RUN --dataset {self.dataset}.",
            )


def status_of(
    meta: DatasetMetadata,
    states: Mapping[str, str],
    runs: tuple[RunAtWork, ...],
    abandoned: Mapping[int, Mapping[str, str]],
) -> PublicationStatus:
    """The status of a dataset.

    Args:
        meta: Its tables.
        states: Table that the pending version changes -> its state.
        runs: Runs at work.
        abandoned: Given up version -> facts of its run.
    """
    pending = None
    if meta.pending is not None:
        facts, members = meta.claim(meta.pending), meta.members(meta.pending)
        named = members.staged if members is not None else {}
        listed = (
            PendingMember(
                table=table,
                rows=named[table].rows if table in named else None,
                files=named[table].files if table in named else None,
                state=state,
            )
            for table, state in states.items()
        )
        pending = PendingVersion(
            version=meta.pending,
            run_id=facts.get("run-id", ""),
            job=facts.get("job", ""),
            since_ms=int(facts.get("created-ms", 0)),
            members=tuple(listed),
        )
    given_up = (
        AbandonedVersion(
            version=version,
            run_id=abandoned.get(version, {}).get("run-id", ""),
            job=abandoned.get(version, {}).get("job", ""),
            whole=whole,
        )
        for version, whole in sorted(meta.abandoned.items())
    )
    return PublicationStatus(
        dataset=meta.spec.name, version=meta.current, pending=pending, runs=runs, abandoned=tuple(given_up)
    )
