"""One erasure: a version without the users, the kept ones made anew, everything else removed, a final scan.

Each step finds by itself what is left to do, so an erasure that was killed is finished by running it again. The dataset
keeps what a run was asked and what it found when it began, and in the end its receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame

from dedup_storage.dataset.backfill.other_parts import refuse_other_parts
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, scanned, signed
from dedup_storage.dataset.upkeep.receipt import ErasureRecord, erasure_request, list_digest
from dedup_storage.dataset.upkeep.verify import listed_users, look_again
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import pins_conversion
from dedup_storage.lake.upkeep import Erasure, Found, OvertakenError
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.words import counted

__all__ = ["Forgetting"]

# How often it begins anew because others published meanwhile.
_ATTEMPTS = 3


class Forgetting(TimedSteps):
    """Erases users from one dataset.

    Args:
        handle: The dataset.
        users: Ids, or a frame with the user column or one column of any name.
        run_id: The run; running it again finishes what is left.
        dry_run: Count, change nothing.
    """

    def __init__(
        self, handle: Handle, users: DataFrame | Sequence[int | str], *, run_id: str, dry_run: bool = False
    ) -> None:
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.dry_run = run_id, dry_run
        self._given = users
        self._known: ErasureRecord | None = None
        self.seconds: dict[str, float] = {}

    def run(self) -> ForgetSummary:
        """Do it; or, where the run is done already, give its receipt.

        Raises:
            UsageError: no user is given, a run is at work on the dataset whose staged rows may be theirs, or the run id
                stands for another request.
            ConflictError: another run changed the same segments first; run again.
        """
        with translated():
            meta = self.handle.metadata()
            users = listed_users(self.handle, meta, self._given).persist()
            try:
                count = users.count()
                if not count:
                    raise UsageError("no user is given")
                self._known = ErasureRecord.of(meta, self.run_id)
                digest = list_digest(users, None if self._known is None else self._known.receipt.users_digest)
                request = erasure_request(count, digest)
                self._refuse_other(meta, request)
                refuse_other_parts(self.tables, meta, lambda: request, self.run_id)
                if self._known is not None and self._known.done and not self.dry_run:
                    return self._again(self._known.receipt, users)
                return self._erased(users, count, digest, request)
            finally:
                users.unpersist()

    def _refuse_other(self, meta: DatasetMetadata, request: Request) -> None:
        if self._known is not None:
            version = meta.version_of_run(self.run_id)
            request.require_same(self._known.request, self.run_id, version, finished=self._known.done)
        else:
            require_same(meta, request.text, self.run_id)

    def _again(self, receipt: ForgetSummary, users: DataFrame) -> ForgetSummary:
        """The receipt of a run that is done, if its users are still gone."""
        proof = look_again(self.handle, receipt, users)
        if any(table.rows for table in proof.tables):
            raise UsageError(
                f"the run {self.run_id} is done, and its users are in {self.spec.name} again: {proof.finding}",
                fix="Run it under another run id.",
            )
        return receipt.model_copy(update={"already_done": True})

    def _settled(self) -> DatasetMetadata:
        return self.handle.metadata() if self.dry_run else self.tables.take_in(self.spec)

    def _erased(self, users: DataFrame, count: int, digest: str, request: Request) -> ForgetSummary:
        for _ in range(_ATTEMPTS):
            meta = self._settled()
            _refuse_other_buckets(meta)
            erasure = self.tables.erasure(self.spec, users, self.run_id, request.facts)
            try:
                return self._erase(meta, erasure, count, digest, request)
            except OvertakenError:
                continue
        raise ConflictError(
            f"other runs kept publishing to {self.spec.name} while users were erased from it",
            fix="Nothing was erased. Run the job again with the same run id.",
        )

    def _erase(
        self, meta: DatasetMetadata, erasure: Erasure, count: int, digest: str, request: Request
    ) -> ForgetSummary:
        if not self.dry_run:
            erasure.begin([run_id for run_id in ErasureRecord.stopped(meta) if run_id != self.run_id])
            self._refuse_busy()
        with self.timed("find"):
            found = erasure.find()
        if found.version != meta.current:
            # What was looked at of it, its buckets among that, is of the version before.
            raise OvertakenError
        if self.dry_run:
            return self._found(meta, found, count, None)
        self._refuse_staged(found.staged)
        self._refuse_returned(meta, found)
        if self._known is None:
            begun = self._found(meta, found, count, digest)
            erasure.remember(ErasureRecord(request=request.text, receipt=begun).model_dump_json())
        else:
            # What was there before a part of it was erased.
            begun = self._known.receipt
        with self.timed("versions"):
            erasure.make_anew()
        with self.timed("remove"):
            erasure.remove()
        reached("forget:removed")
        with self.timed("scan"):
            remains = erasure.remains()
        receipt = scanned(begun, remains, self.handle.metadata().current)
        receipt = signed(receipt.model_copy(update={"seconds": self.seconds}))
        if receipt.clean:
            erasure.remember(ErasureRecord(request=request.text, receipt=receipt).model_dump_json())
        return receipt

    def _found(self, meta: DatasetMetadata, found: Found, count: int, digest: str | None) -> ForgetSummary:
        return ForgetSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            dataset_id=meta.identity,
            dry_run=self.dry_run,
            users=count,
            not_found=count - found.users,
            users_digest=digest,
            version=found.version,
            versions_rewritten=found.versions,
            tables=tuple(found.tables.values()),
            seconds=self.seconds,
        )

    def _refuse_busy(self) -> None:
        """Rows that runs have staged, or parts that they finished, may be of the users and would be published later."""
        self.tables.status(self.spec.name).require_alone(self.run_id)

    def _refuse_staged(self, tables: Iterable[str]) -> None:
        staged = ", ".join(tables)
        if staged:
            raise UsageError(
                f"rows of the users are staged in {staged} of {self.spec.name}, by runs at work or stopped",
                fix="Nothing was changed. Finish these runs; maintain takes away what was staged days ago.",
            )

    def _refuse_returned(self, meta: DatasetMetadata, found: Found) -> None:
        """A run publishes one version: rows that came after it are another run's to erase."""
        done = meta.version_of_run(self.run_id)
        if done is not None and any(table.rows for table in found.tables.values()):
            raise UsageError(
                f"the run {self.run_id} published version {done} without the users, and a later version of "
                f"{self.spec.name} has rows of them again",
                fix="Run it under another run id; what this run left is done there too.",
            )


def _refuse_other_buckets(meta: DatasetMetadata) -> None:
    """Kept versions in another number of buckets: their files are looked for by today's."""
    others = [version for version in meta.version_numbers if meta.rebucketed(version) is not None]
    if not others:
        return
    changed = meta.rebucketed(others[-1])
    assert changed is not None  # noqa: S101 - of one of them
    labels = [(label, version) for version in others for label in meta.pins(version)]
    pins = [f"{label} (version {version})" for label, version in labels]
    name = meta.spec.name
    steps = []
    if any(pins_conversion(label) for label, _ in labels):
        steps.append("finish the conversion under its run id")
    if not all(pins_conversion(label) for label, _ in labels):
        steps.append(f"dedup-storage versions unpin LABEL --dataset {name}")
    # Those that are in nobody's way stay.
    stay = sum(version >= changed.version for version in meta.version_numbers)
    steps.append(f"dedup-storage maintain --dataset {name} --only expire --keep-versions {stay} --keep-days 0")
    raise UsageError(
        f"{changed.of(name)}, and {counted(len(others), 'earlier version', 'is')} kept",
        expected=f"kept versions from {changed.version} on",
        got=f"versions {others[0]} to {others[-1]}" + (f", pinned: {', '.join(pins)}" if pins else ""),
        fix=f"Nothing was changed. Let them expire, then erase: {', '.join(steps)}.",
    )
