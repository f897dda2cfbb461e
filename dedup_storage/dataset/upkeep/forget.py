"""One erasure: a version without the users, the kept ones made anew, everything else removed, a final scan.

Each step finds by itself what is left to do, so an erasure that was killed is finished by running it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import DataFrame

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, signed
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.upkeep import Erasure, OvertakenError, TableErasure
from dedup_storage.sources.named import typed_users
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

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
        self._not_found = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> ForgetSummary:
        """Do it.

        Raises:
            UsageError: no user is given, or a run is at work on the dataset, whose staged rows may be theirs.
            ConflictError: another run changed the same segments first; run again.
        """
        with translated():
            meta = self._settled()
            users = self._typed(meta).persist()
            try:
                count = users.count()
                if not count:
                    raise UsageError("no user is given")
                user = self.spec.schema_.user
                self._not_found = users.join(self._stored(meta).select(user), user, "left_anti").count()
                return self._erased(users, count)
            finally:
                users.unpersist()

    def _settled(self) -> DatasetMetadata:
        return self.handle.metadata() if self.dry_run else self.tables.take_in(self.spec)

    def _typed(self, meta: DatasetMetadata) -> DataFrame:
        """The users, distinct, in the type of the tables' column."""
        user = self.spec.schema_.user
        return typed_users(self.handle.spark, self._given, user, self._stored(meta).schema[user].dataType)

    def _stored(self, meta: DatasetMetadata) -> DataFrame:
        """Rows of the anchor, where every user of the newest version is."""
        meta.resolve(None)
        anchor = self.spec.anchor.name
        return self.tables.read(self.spec.name, anchor, meta.snapshots(meta.current)[anchor])

    def _erased(self, users: DataFrame, count: int) -> ForgetSummary:
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._settled()
            try:
                return self._erase(self.tables.erasure(self.spec, users, self.run_id), count)
            except OvertakenError:
                continue
        raise ConflictError(
            f"other runs kept publishing to {self.spec.name} while users were erased from it",
            fix="Nothing was erased. Run the job again with the same run id.",
        )

    def _erase(self, erasure: Erasure, count: int) -> ForgetSummary:
        if not self.dry_run:
            erasure.begin()
            self._refuse_busy()
        with self.timed("find"):
            found = erasure.find()
        if self.dry_run:
            return self._summary(count, found.version, (), found.tables, clean=None)
        self._refuse_staged(found.staged)
        with self.timed("versions"):
            made = erasure.make_anew()
        with self.timed("remove"):
            erasure.remove()
        reached("forget:removed")
        with self.timed("scan"):
            left = erasure.left()
        tables = {
            name: table.model_copy(
                update={
                    "snapshots_rewritten": made.snapshots.get(name, 0),
                    "rows_left": left[name][0],
                    "snapshots_left": left[name][1],
                }
            )
            for name, table in found.tables.items()
        }
        clean = not any(table.rows_left or table.snapshots_left for table in tables.values())
        return self._summary(count, self.handle.metadata().current, made.versions, tables, clean=clean)

    def _refuse_busy(self) -> None:
        """Rows that runs have staged, or parts that they finished, may be of the users and would be published later."""
        busy = [run for run in self.tables.status(self.spec.name).runs if run.run_id != self.run_id]
        if busy:
            named = ", ".join(f"{run.run_id} ({run.holds} in {', '.join(run.tables)})" for run in busy)
            raise UsageError(
                f"runs are at work on {self.spec.name}, or were stopped there: {named}",
                fix="Nothing was changed. Let them finish, run stopped ones again under their run id, or give them up: "
                "dedup-storage versions abandon --run-id RUN.",
            )

    def _refuse_staged(self, tables: Iterable[str]) -> None:
        staged = ", ".join(tables)
        if staged:
            raise UsageError(
                f"rows of the users are staged in {staged} of {self.spec.name}, by runs at work or stopped",
                fix="Nothing was changed. Finish these runs; maintain takes away what was staged days ago.",
            )

    def _summary(
        self,
        count: int,
        version: int,
        versions: Iterable[int],
        tables: Mapping[str, TableErasure],
        *,
        clean: bool | None,
    ) -> ForgetSummary:
        summary = ForgetSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            dry_run=self.dry_run,
            users=count,
            not_found=self._not_found,
            version=version,
            versions_rewritten=tuple(versions),
            clean=clean,
            tables=tuple(tables.values()),
            seconds=self.seconds,
        )
        return signed(summary)
