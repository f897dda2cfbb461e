"""Where named samples live: a record of the dataset, and for stored users a table ``sm_<name>``.

The record is set last, in one commit, and names the users' snapshot by a tag: a crash before it leaves the sample
as it was. A sample belongs to a version but makes none.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError
from pyspark.sql import DataFrame

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.samples.users import STRATUM
from dedup_storage.errors import StorageError, UsageError, known_names
from dedup_storage.faults import reached
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.stored import USER_WEIGHT, parse_sample
from dedup_storage.schema import check_name

__all__ = ["SAMPLED", "SampleStore", "pruning_buckets"]

SAMPLED = "sampled"
_LONGEST_NAME = 100


def pruning_buckets(count: int, buckets: Iterable[int]) -> tuple[int, ...]:
    """Buckets of a version that a sample's users lie in, for files to be left out by: none where users lie in all of
    them.

    Args:
        count: Buckets that the version has.
        buckets: Those with users of the sample.
    """
    found = tuple(sorted(buckets))
    return found if len(found) < count else ()


class SampleStore:
    """The named samples of one dataset.

    Args:
        handle: The dataset.
    """

    def __init__(self, handle: Handle) -> None:
        handle.tables.require("a named sample", handle.spec)
        self.handle = handle

    def list(self) -> list[Sample]:
        """All samples, by name."""
        return [self._parse(name, text) for name, text in sorted(self.handle.metadata().samples.items())]

    def find(self, name: str) -> Sample | None:
        """A sample by name, ``None`` where there is none."""
        if len(check_name(name, "sample name")) > _LONGEST_NAME:
            raise UsageError("the sample's name is too long", expected=f"at most {_LONGEST_NAME} characters")
        text = self.handle.metadata().samples.get(name)
        return None if text is None else self._parse(name, text)

    def load(self, name: str) -> Sample:
        """A sample by name.

        Raises:
            UsageError: there is none; names those that do exist.
        """
        sample = self.find(name)
        if sample is None:
            names = [s.name for s in self.list()]
            raise UsageError(
                f"the dataset {self.handle.name} has no sample {name}",
                expected=known_names(name, names) if names else "a stored sample; there is none",
                fix="Make it with: dedup-storage sample create.",
            )
        return sample

    def _parse(self, name: str, text: str) -> Sample:
        try:
            return parse_sample(text)
        except ValidationError:
            raise UsageError(
                f"the sample {name} of {self.handle.name} cannot be read by this release",
                fix="Install a newer dedup_storage.",
            ) from None

    def save(self, sample: Sample) -> None:
        """Publish a sample's record."""
        reached("sample:before-record")
        # Unsaid where it says nothing, so that older releases read the rest.
        text = sample.model_dump_json(exclude={"of_buckets"} if sample.of_buckets is None else None)
        self.handle.tables.record_sample(self.handle.spec, sample.name, text)

    def drop(self, name: str, *, dry_run: bool = False) -> None:
        """Forget a sample and its users; a dry run only looks for it.

        Raises:
            UsageError: there is none of that name.
        """
        sample = self.load(name)
        if dry_run:
            return
        self.handle.tables.record_sample(self.handle.spec, name, None)
        reached("sample:record-dropped")
        if sample.table is not None:
            self.handle.tables.drop_users(self.handle.spec, sample.table)

    # -- users --------------------------------------------------------------------------------------------------
    def write_users(self, name: str, users: DataFrame, attempt: str) -> tuple[str, str]:
        """Store the users of a sample, all strata; gives the table and the tag of the snapshot that holds them.

        Args:
            name: The sample.
            users: Columns user, stratum, sampled, user_weight.
            attempt: Unique; names the snapshot.
        """
        table, tag, user = f"sm_{name}", f"sample-{attempt}", self.handle.schema.user
        rows = users.select(user, STRATUM, SAMPLED, USER_WEIGHT)
        # Sampled users first: a reader skips the row groups behind them.
        order = {SAMPLED: True, user: False}
        snapshot_id = self.handle.tables.store_users(self.handle.spec, table, rows, attempt, order)
        reached("sample:users-stored")
        self.handle.tables.tag(self.handle.name, table, tag, snapshot_id)
        return table, tag

    def release(self, sample: Sample) -> None:
        """Let expiry have the users of a record that was replaced."""
        if sample.table is not None and sample.tag is not None:
            self.handle.tables.untag(self.handle.name, sample.table, sample.tag)

    def users(self, sample: Sample) -> DataFrame:
        """Stored users of a sample, sampled or not: user, stratum, sampled, user_weight.

        Raises:
            StorageError: they are gone.
        """
        snapshot = self.handle.metadata().stored_users.tags.get((str(sample.table), str(sample.tag)))
        if snapshot is None:
            raise StorageError(f"the users of the sample {sample.name} are gone", fix="Drop it and make it again.")
        return self.handle.tables.read(self.handle.name, str(sample.table), snapshot)
