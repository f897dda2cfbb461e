"""What completing a version does to one table, in a change that is not committed yet: alone, or with others."""

from __future__ import annotations

from dataclasses import dataclass

from dedup_storage.lake.engine.atomic import AtomicChange
from dedup_storage.lake.iceberg.holds import back_tag, hold_tag
from dedup_storage.lake.iceberg.snapshots import NO_GROUP
from dedup_storage.lake.members import Member
from dedup_storage.layout import version_tag

__all__ = ["Part", "bring"]


@dataclass(frozen=True)
class Part:
    """A version's part in one table.

    Attributes:
        name: The table.
        version: The version.
        attempt: The attempt that decided it.
        member: What it brings; ``None`` where the version leaves the table alone.
        before: The table's snapshot in the version before; ``None`` where that one has not the table.
        back: It brings back what the table had in an older version.
        buckets: User column, and the number of its buckets from the version on, where that is another one than before.
    """

    name: str
    version: int
    attempt: str
    member: Member | None
    before: int | None
    back: bool = False
    buckets: tuple[str, int] | None = None

    @property
    def tag(self) -> str:
        """What the table has once it is complete."""
        return version_tag(self.version)

    @property
    def hold(self) -> str:
        """What holds the member until then."""
        return back_tag(self.attempt) if self.back else hold_tag(self.attempt)


def bring(change: AtomicChange, part: Part) -> bool:
    """Make a part in a change, unless the table has it; ``False`` where nothing holds what it is to get.

    Raises:
        Py4JJavaError: with ``ValidationException`` where the member fits main no longer.
    """
    if change.ref(part.tag) is not None:
        return True
    if part.member is None and part.before is not None:
        change.tag(part.tag, part.before)
        return True
    staged = change.ref(part.hold)
    if staged is None:
        return False
    if part.back:
        change.set_main(staged)
    elif part.before is None and change.holds_files():
        # The version before does not have the table: what is on main is of versions rolled back.
        change.empty(NO_GROUP)
    change.tag(part.tag, staged if part.back else change.pick(staged))
    if part.buckets is not None:
        change.set_buckets(*part.buckets)
    names = (hold_tag(part.attempt), back_tag(part.attempt))
    change.untag(*(name for name in names if change.ref(name) is not None))
    return True
