"""What publication is on every table format: one of many writers decides a version, any of them completes it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from dedup_storage.config import Settings
from dedup_storage.errors import (
    ConflictError,
    DedupStorageError,
    LostRacesError,
    StorageError,
    StuckPublicationError,
    UsageError,
)
from dedup_storage.lake.conflicts import overlap
from dedup_storage.lake.history import DatasetMetadata, version_expired
from dedup_storage.lake.requests import REQUEST, Request
from dedup_storage.lake.retries import whole_publications
from dedup_storage.lake.runs import Run
from dedup_storage.lake.segments import encode_segments
from dedup_storage.layout import DatasetSpec

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

__all__ = [
    "LostRaceError",
    "PublisherBase",
    "require_buckets",
    "require_described",
    "require_pending",
    "require_same",
    "require_same_buckets",
    "restored_version",
    "version_facts",
]

Metadata = TypeVar("Metadata", bound=DatasetMetadata)
_logger = logging.getLogger(__name__)
# Parts of a conversion are published by writes.
_PUBLISHED_BY = {"convert": ("convert", "write")}


class LostRaceError(Exception):
    """Another writer's commit came first; look again and go on."""


class PublisherBase(ABC, Generic[Metadata]):
    """The rounds of a publication; how a version is decided and completed is the format's.

    Attributes:
        settings: How often a lost race is run again.
        lake: What loads a dataset's tables.
        raced_for: What writers race for, for messages.
    """

    settings: Settings
    lake: Any
    raced_for: str

    def publish(
        self,
        spec: DatasetSpec,
        run: Run,
        members: Sequence[str],
        verify: Callable[[DatasetMetadata], None] | None,
    ) -> int:
        """See ``TableFormat.publish``; what was staged is let go where nothing was decided."""
        # Catalogs without Spark use the errors of this module, not its publications.
        from dedup_storage.spark.errors import ENGINE_ERRORS

        try:
            version = self._publish(spec, run, members, verify)
            meta: Metadata = self.lake.load(spec.name)
            if self.mended(meta):
                meta = self.lake.load(spec.name)
            if version in meta.abandoned:
                raise ConflictError(
                    f"version {version} of {spec.name} was abandoned by somebody while this run completed it",
                    fix="Nothing was published by this run. Run the job again.",
                )
        except BaseException as error:
            try:
                self.discard(spec, run)
            except (DedupStorageError, *ENGINE_ERRORS) as second:
                error.add_note(f"What the run {run.run_id} staged was not let go: {second}")
            raise
        self.discard_former(meta, run)
        return version

    def _publish(
        self,
        spec: DatasetSpec,
        run: Run,
        members: Sequence[str],
        verify: Callable[[DatasetMetadata], None] | None,
    ) -> int:
        verified = run.base
        for attempt in self._retrying():
            with attempt:
                meta = self.complete_pending(spec)
                done = meta.version_of_run(run.run_id)
                if done is not None:
                    self.discard(spec, run)
                    require_same(meta, run.facts.get(REQUEST), run.run_id)
                    return done
                if meta.current != verified:
                    refuse_overlap(meta, run)
                    if verify is not None:
                        verify(meta)
                    verified = meta.current
                require_buckets(meta, spec)
                for name in members:
                    self._refuse_foreign(meta, name)
                    self._prepare(meta, name, run)
                return self._decide(meta, run, members)
        raise AssertionError("unreachable: tenacity reraises")

    def _decide(self, meta: Metadata, run: Run, members: Sequence[str]) -> int:
        version = meta.following
        try:
            return self._claim_and_complete(meta, version, run, members)
        except StuckPublicationError as error:
            # Another tool got between the look at the tables and the decision. Nobody was told of the version yet.
            self.abandon(self.lake.load(meta.spec.name), version)
            raise ConflictError(
                error.what,
                expected=error.expected,
                got=error.got,
                fix="The version was abandoned, nothing was published. Run the job again.",
            ) from error

    def settled(self, spec: DatasetSpec) -> Metadata:
        """See ``TableFormat.settle``."""
        meta = self.complete_pending(spec)
        require_buckets(meta, spec)
        return meta

    def complete_pending(self, spec: DatasetSpec) -> Metadata:
        """Finish the version that is decided but not complete, or that is being given up, if there is one; gives the
        tables as they are then.

        Raises:
            StuckPublicationError: it can never be completed.
        """
        meta: Metadata = self.lake.load(spec.name)
        while True:
            if meta.half_abandoned is not None:
                self.undo(meta, meta.half_abandoned)
            elif meta.pending is not None:
                self.complete(meta, meta.pending)
            elif not self.mended(meta):
                return meta
            meta = self.lake.load(spec.name)

    def give_up(self, spec: DatasetSpec, version: int) -> str | None:
        """Give up a version that is decided and not complete; gives the run that had decided it, where that is known.

        Raises:
            UsageError: the version is published, or was never decided.
        """
        meta: Metadata = self.lake.load(spec.name)
        require_pending(meta, version)
        run_id = meta.claim(version).get("run-id")
        try:
            self.abandon(meta, version)
        except LostRaceError as error:
            raise UsageError(
                f"version {version} of {spec.name} was completed meanwhile; it is published",
                fix="Take it back with: dedup-storage versions rollback N.",
            ) from error
        return run_id

    @abstractmethod
    def abandon(self, meta: Metadata, version: int) -> None:
        """Give up a version that is decided and not complete: first so that nobody can complete it, then ``undo``.

        Raises:
            LostRaceError: it was completed meanwhile.
        """

    @abstractmethod
    def undo(self, meta: Metadata, version: int) -> None:
        """Take out of the tables what a version that is given up brought already; safe to repeat."""

    @abstractmethod
    def complete(self, meta: Metadata, version: int) -> None:
        """Bring a decided version's data into the tables, the anchor last; safe to repeat.

        Raises:
            StuckPublicationError: what it needs is gone, or fits no longer.
        """

    def mended(self, meta: Metadata) -> bool:
        """Bring into the tables what the catalog said it had taken and, as they are loaded now, had not; gives whether
        there was anything.

        Raises:
            StorageError: it can be brought in no more.
        """
        return False

    @abstractmethod
    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove what an attempt staged, unless its version is decided."""

    @abstractmethod
    def discard_former(self, meta: Metadata, run: Run) -> None:
        """Let go of what earlier attempts of a published run staged: they were killed."""

    @abstractmethod
    def _claim_and_complete(self, meta: Metadata, version: int, run: Run, members: Sequence[str]) -> int: ...

    @abstractmethod
    def _refuse_foreign(self, meta: Metadata, name: str) -> None: ...

    def _prepare(self, meta: Metadata, name: str, run: Run) -> None:
        """Fit what was staged in a table to the table as it is now; nothing, where the format does so on completing."""

    def _retrying(self) -> Retrying:
        attempts = self.settings.write.conflict_retries + 1
        return whole_publications(lambda error: isinstance(error, LostRaceError), attempts, self._give_up)

    def _give_up(self, state: RetryCallState) -> NoReturn:
        # Catalogs without Spark use the errors of this module, not its publications.
        from dedup_storage.spark.errors import is_trouble, root_message, translate

        error = state.outcome.exception() if state.outcome is not None else None
        cause = error.__cause__ if error is not None else None
        if cause is not None and is_trouble(cause):
            told = translate(cause)
            again = "Run the job again with the same run id: it goes on, or finds that it is published."
            raise StorageError(told.what, expected=told.expected, got=told.got, fix=again) from error
        raise LostRacesError(
            f"the publication lost the race for the {self.raced_for} {state.attempt_number} times",
            got=root_message(cause or error) if error is not None else None,
            fix="Run the job again with the same run id.",
        ) from error


def refuse_overlap(meta: DatasetMetadata, run: Run) -> None:
    """Refuse a replacement that would overwrite what was published into its segments since it began, and whatever was
    staged for another number of user buckets.

    Raises:
        ConflictError: names the version.
    """
    changed_buckets = meta.rebucketed(run.base)
    if changed_buckets is not None:
        raise ConflictError(
            f"{changed_buckets.of(meta.spec.name)}, after this run began",
            expected=f"rows staged in {changed_buckets.after} buckets",
            fix="Nothing was published. Run the job again.",
        )
    if run.replaced is None and run.segments is None:
        return
    for version in range(run.base + 1, meta.current + 1):
        if version in meta.abandoned:
            continue
        facts, grain = meta.claim(version), meta.spec.date_grain
        if overlap(facts, grain, dates=run.dates, segments=run.segments, reads=run.reads, tables=run.tables):
            changed = "event dates" if run.segments is None else "segments"
            raise ConflictError(
                f"version {version} of {meta.spec.name} changed {changed} that this run replaces",
                expected=f"version {run.base} to be the last that touched them",
                fix="Nothing was published. Run the job again.",
            )


def restored_version(meta: DatasetMetadata, run: Run) -> int | None:
    """The version whose content a run brings back; ``None`` for a run that is no rollback.

    Raises:
        VersionNotFoundError: it expired since the run looked.
    """
    if run.facts.get("kind") != "rollback":
        return None
    target = int(run.facts["parent"])
    if target not in meta.version_numbers:
        raise version_expired(meta.spec.name, target, "brought back")
    return target


def require_pending(meta: DatasetMetadata, version: int) -> None:
    """Refuse to give up a version that is not decided and incomplete.

    Raises:
        UsageError: it is published, or was never decided.
    """
    if version not in meta.abandoned and version != meta.pending:
        published = version in meta.version_numbers
        raise UsageError(
            f"version {version} of {meta.spec.name} {'is published' if published else 'was never decided'}",
            expected="a version that is decided and not complete"
            + ("" if meta.pending is None else f": version {meta.pending}"),
            fix="Take a published version back with: dedup-storage versions rollback N."
            if published
            else "See what is under way with: dedup-storage versions status.",
        )


def require_buckets(meta: DatasetMetadata, spec: DatasetSpec, written: int | None = None) -> None:
    """Refuse to work on a dataset by the number of user buckets that it had when it was opened.

    Args:
        meta: The dataset.
        spec: Its description of then.
        written: In how many buckets a table is written now, that has its part of a version before others have theirs.

    Raises:
        ConflictError: it has another since, or a version that is not complete gives it that of the table.
    """
    if meta.spec.buckets != spec.buckets:
        between = (spec.buckets, meta.spec.buckets)
        change = next((c for c in reversed(meta.rebucketings) if (c.before, c.after) == between), None)
        # It may have changed more than once, or be another dataset, to which the name was given since.
        told = f"{spec.name} has {meta.spec.buckets} buckets, and had {spec.buckets} when it was opened"
        raise ConflictError(
            told if change is None else f"{change.of(spec.name)}, after it was opened",
            fix="Nothing was changed. Open the dataset again, and run the job again.",
        )
    for version in (meta.pending, meta.half_abandoned):
        coming = None if version is None else meta.described.get(version)
        if version is not None and coming is not None and coming.buckets == written != spec.buckets:
            # It may be published or given up by now: what is staged must not lie in its buckets in either case.
            raise ConflictError(
                f"the number of buckets of {spec.name} changes from {spec.buckets} to {coming.buckets} in version "
                f"{version}, which is not complete",
                fix="Nothing was published. Run the job again.",
            )


def require_same_buckets(meta: DatasetMetadata, version: int) -> None:
    """Refuse to bring a version back that has another number of user buckets than the newest: tables are written by
    that one's, and beside rows in others, joins would move rows.

    Raises:
        UsageError: it has another.
    """
    changed = meta.rebucketed(version)
    if changed is not None:
        raise UsageError(
            f"{changed.of(meta.spec.name)}, so that version {version} cannot become the newest again",
            expected=f"version {changed.version} or a later one",
            fix="Nothing was changed. Write it into another dataset, and let the two change names: "
            f"dedup-storage convert NEW_NAME --dataset {meta.spec.name} --version {version}.",
        )


def require_described(meta: DatasetMetadata, spec: DatasetSpec) -> None:
    """Refuse to work on a dataset by the columns that it had when it was opened.

    Raises:
        ConflictError: it has others since.
    """
    if meta.spec != spec:
        raise ConflictError(
            f"the columns of {spec.name} changed since it was opened",
            expected=", ".join(spec.source_columns),
            got=", ".join(meta.spec.source_columns),
            fix="Nothing was changed. Open it again.",
        )


def require_same(meta: DatasetMetadata, asked: str | None, run_id: str) -> int | None:
    """The version that a run published, which must have been asked what is asked now; ``None`` where there is none.

    Args:
        meta: The dataset.
        asked: The text of a ``Request``; ``None`` where nobody wrote it down.
        run_id: The run.

    Of a version that says nothing of its request the job alone is compared, and a warning says so.

    Raises:
        UsageError: it was asked something else; names the inputs that differ.
    """
    done = meta.version_of_run(run_id)
    request = Request.from_text(asked)
    if done is None or request is None:
        return done
    facts = meta.claim(done)
    kept = facts.get(REQUEST)
    known = Request.from_text(kept) is not None
    request.require_same(kept if known else _job_alone(facts, request), run_id, done)
    if not known:
        _logger.warning(
            "Version %s of %s does not say what the run %s was asked to do: what is asked now is taken for the same, "
            "and nothing is done.",
            done, meta.spec.name, run_id,
        )  # fmt: skip
    return done


def _job_alone(facts: Mapping[str, str], asked: Request) -> str | None:
    """What a version tells of a request that nobody wrote down: whose job it was."""
    published, now = facts.get("job"), asked.inputs.get("job", "")
    if published is None or published in _PUBLISHED_BY.get(now, (now,)):
        return None
    return Request.of(published).text


def version_facts(run: Run) -> dict[str, str]:
    """What a version remembers of its run."""
    facts = {
        "run-id": run.run_id,
        "job": run.job,
        "dates": "*" if run.dates is None else ",".join(run.dates),
        **run.facts,
    }
    if run.tables is not None:
        facts["tables"] = ",".join(run.tables)
    if run.segments is not None:
        facts["segments"] = encode_segments(run.segments)
    return facts
