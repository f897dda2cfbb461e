"""Layout ``user``: users' lists laid anew, where lists of requests are many runs of them and would be few.

Events that came late, days that were written after newer ones, and limits that differ from request to request leave
lists in many runs, since users' lists grow at their ends alone. A copy of the events that a user's requests name is
added at the end of the user's list, in an order in which these lists are few runs, and the requests refer to it. Their
former events are referred to by older versions alone, and go as all such events do.

Deleted events, and items that stand at their newest occurrence alone, are gaps in any order: nothing would be gained,
so nothing is laid.
"""

from __future__ import annotations

from collections.abc import Mapping

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.upkeep.compact import working_branches
from dedup_storage.dataset.upkeep.copies import Copies
from dedup_storage.dataset.upkeep.fragments import Fragments, Gained, GroupRuns
from dedup_storage.dataset.upkeep.maintain_summary import LaidAnew
from dedup_storage.errors import ConflictError, DedupStorageError, LostRacesError
from dedup_storage.event_groups import EventGroup
from dedup_storage.faults import reached
from dedup_storage.lake.branch import Branch, branch_name
from dedup_storage.lake.facts import ROWS_KEPT
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import anew_run, new_attempt
from dedup_storage.lake.segments import LAY_ANEW
from dedup_storage.spark.errors import translated
from dedup_storage.words import counted

__all__ = ["LayingAnew", "uneven_features"]

# How often it begins anew because others published meanwhile.
_ATTEMPTS = 3
_AT_WORK = "a run is at work on requests, on events or on features of them"
_BUSY = "other runs kept adding events, or features of them, while lists were laid anew"
_CHANGED = "another run changed the same segments of requests meanwhile"


class _OvertakenError(ConflictError):
    """Events, or features of them, came or went since the run looked; nothing was published."""


class LayingAnew:
    """Lays lists of one dataset's users anew, as a version of its own.

    Args:
        handle: The dataset.
        run_id: The maintenance run.
        share: So many runs must go: of a user, and of all of a user bucket.
        request: What the run is asked to do.
    """

    def __init__(self, handle: Handle, run_id: str, share: float, request: Request) -> None:
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.share, self.request = anew_run(run_id), share, request

    def run(self, meta: DatasetMetadata, *, dry_run: bool = False) -> tuple[LaidAnew, ...]:
        """Do it; gives each group before and after, nothing where this run did it before.

        Args:
            meta: The dataset's tables.
            dry_run: Look and tell, change nothing.

        Raises:
            StorageError: what was staged is not what was to be; nothing was published.
        """
        if require_same(meta, self.request.text, self.run_id) is not None:
            # Killed between publication and clean-up, it left its branch behind.
            if not dry_run:
                self.tables.branch(self.spec.name, self.spec.anchor.name, self.run_id).drop()
            return ()
        for _ in range(_ATTEMPTS):
            try:
                return self._once(meta, dry_run=dry_run)
            except _OvertakenError:
                meta = self.handle.metadata()
        return self._once(meta, dry_run=True, busy=True)

    def _once(self, meta: DatasetMetadata, *, dry_run: bool, busy: bool = False) -> tuple[LaidAnew, ...]:
        cut = Cut(self.handle, meta, meta.current)
        with Fragments.of(self.handle, cut, self.share) as found:
            counts = found.counted()
            skipped = {g.name: self._left_alone(cut, g) for g in self.spec.events if counts[g.name].promising}
            tried = {name: counts[name] for name, why in skipped.items() if why is None}
            copies, gained = _copies(found, tried) if tried else (None, {})
            sizes = {} if copies is None else _planned_bytes(cut, copies)
            if copies is not None and (busy or not dry_run):
                done = _BUSY if busy else self._publish(cut, copies)
                if isinstance(done, str):
                    skipped |= dict.fromkeys(copies.buckets, done)
                else:
                    sizes = _staged_bytes(copies, done)
            return tuple(
                _told(g, counts[g.name], gained.get(g.name), sizes.get(g.name, 0), skipped.get(g.name))
                for g in self.spec.events
            )

    def _left_alone(self, cut: Cut, group: EventGroup) -> str | None:
        """Why lists of a group are not laid anew."""
        tables = [name for name in cut.snapshots if self.spec.event_group(name) == group]
        own = branch_name(self.run_id)
        if any(working_branches(self.tables, self.spec.name, t, own) for t in (self.spec.anchor.name, *tables)):
            return _AT_WORK
        return uneven_features(cut, group)

    def _publish(self, cut: Cut, copies: Copies) -> list[Staged] | str:
        """Stage and publish; gives the copies, or why nothing was published.

        Raises:
            _OvertakenError: the end of a user's list may be taken, or a feature lack copies.
        """
        anchor, segments = self.spec.anchor.name, copies.segments()
        branch = self.tables.branch(self.spec.name, anchor, self.run_id)
        changed = [anchor, *copies.tables()]
        run = Run(
            run_id=self.run_id,
            job="maintain",
            attempt=new_attempt(self.run_id),
            base=cut.version,
            dates=tuple(sorted({s.date for s in segments})),
            segments={anchor: segments},
            branch=branch.name,
            facts={"mode": LAY_ANEW, **self.request.facts},
            table_facts={name: {ROWS_KEPT: "true"} for name in changed},
        )
        try:
            with translated():
                staged = _staged(copies, run, branch)
                reached("maintain:anew-proved")
                self.tables.publish(self.spec, run, changed, lambda now: _refuse_overtaken(cut, now))
                reached("maintain:anew-published")
        except ConflictError as error:
            # Nothing was decided, and a later attempt begins its branch anew: it would only be in others' way.
            branch.drop()
            if isinstance(error, (LostRacesError, _OvertakenError)):
                raise
            return _CHANGED
        finally:
            self.tables.discard(self.spec, run)
        branch.drop()
        return staged


def uneven_features(cut: Cut, group: EventGroup) -> str | None:
    """Why copies of events cannot have rows of their features: a table has fewer rows than there are events, or more.

    Args:
        cut: The version.
        group: The sequence group.
    """
    named = {feature.table: name for name, feature in cut.groups.items()}
    tables = sorted(name for name in cut.snapshots if cut.spec.event_group(name) == group and name != group.table)
    rows = {name: cut.meta.totals(name, cut.snapshots[name]).rows for name in (group.table, *tables)}
    # More rows are told first: a refresh would not take them away.
    for name in tables:
        if rows[name] > rows[group.table]:
            feature = named.get(name, name)
            return (
                f"{name} has {counted(rows[name], 'row')} for {counted(rows[group.table], 'event')}: some are there "
                f"twice, or are of no event; check counts them (features.{feature}.duplicate_keys and surplus_keys), "
                f"and a refresh of {feature} with full=True computes all of them anew, of a frame from one that has "
                "each event once"
            )
    late = [name for name in tables if rows[name] < rows[group.table]]
    if late:
        # Events without a row of a feature must be each user's last ones.
        return f"{', '.join(late)} has no row of some events: refresh the features that it holds"
    return None


def _copies(found: Fragments, tried: Mapping[str, GroupRuns]) -> tuple[Copies | None, dict[str, Gained]]:
    """What is to be copied, and what it brings; nothing, where no bucket gains enough."""
    if not found.promises(tried):
        return None, {}
    laid = found.laid(tried)
    gained = found.gained(laid, tried)
    buckets = {
        name: [b for b, gain in gained[name].items() if gain.gone and gain.gone >= found.share * each.runs[b]]
        for name, each in tried.items()
    }
    buckets = {name: listed for name, listed in buckets.items() if listed}
    if not buckets:
        return None, {}
    totals = {name: sum((gained[name][b] for b in listed), Gained()) for name, listed in buckets.items()}
    return Copies(found, laid, buckets, {name: total.events for name, total in totals.items()}), totals


def _planned_bytes(cut: Cut, copies: Copies) -> dict[str, int]:
    """About how many bytes copies take, by group: what other rows of their tables take."""
    found = dict.fromkeys(copies.buckets, 0)
    for name in copies.tables():
        group, totals = cut.spec.event_group(name), cut.meta.totals(name, cut.snapshots[name])
        if group is not None and totals.rows:
            found[group.name] += totals.bytes * copies.events[group.name] // totals.rows
    return found


def _staged(copies: Copies, run: Run, branch: Branch) -> list[Staged]:
    """Stage copies and requests; where that fails, no branch is left that would be in others' way for days."""
    try:
        return copies.stage(run, branch)
    except DedupStorageError:
        branch.drop()
        raise


def _staged_bytes(copies: Copies, staged: list[Staged]) -> dict[str, int]:
    found = dict.fromkeys(copies.buckets, 0)
    for one in staged:
        group = copies.fragments.spec.event_group(one.table)
        if group is not None:
            found[group.name] += one.bytes
    return found


def _refuse_overtaken(before: Cut, now: DatasetMetadata) -> None:
    """Refuse to publish where positions may be taken, or features came that have no copies.

    Raises:
        _OvertakenError: they may.
    """
    # Both ways: features that were dropped meanwhile would come back with rows of copies alone.
    then, today = (
        {name: number for name, number in snapshots.items() if before.spec.event_group(name)}
        for snapshots in (before.snapshots, now.snapshots(now.current))
    )
    if then != today:
        raise _OvertakenError(
            f"another run changed events of {before.spec.name}, or features of them, while lists were laid anew",
            fix="Nothing was published. Run the job again.",
        )


def _told(group: EventGroup, runs: GroupRuns, gain: Gained | None, size: int, skipped: str | None) -> LaidAnew:
    before = sum(runs.runs.values())
    # Where others came first, nothing was gained.
    done, size = (Gained(), 0) if gain is None or skipped is not None else (gain, size)
    return LaidAnew(
        group=group.name,
        lists=runs.lists,
        runs_before=before,
        runs_after=before - done.gone,
        users=done.users,
        requests=done.requests,
        events=done.events,
        event_bytes=size,
        skipped=skipped,
    )
