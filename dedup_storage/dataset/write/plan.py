"""What a write would do, as far as columns, keys and dates tell it."""

from __future__ import annotations

from dataclasses import replace

from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.write.policies import OnDuplicates
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.writer import Writer

__all__ = ["PlannedWrite"]


class PlannedWrite(Writer):
    """A write that changes nothing."""

    def plan(self) -> WriteSummary:
        """What it would write, as columns, keys and dates tell it; nothing is changed.

        Raises:
            InputError: the log cannot be read, or breaks its contract as far as that was looked at.
        """
        meta = self.meta
        done = None if meta is None else self._done(meta)
        if done is not None:
            return done
        with self._keys() as (_, keys):
            version = 0 if meta is None else meta.current
            run, stats = self._run(version, keys), keys.stats
            if meta is not None and version and run.replaced is None:
                keys = self._refuse_existing(Cut(self.handle, meta, version), keys)
            self._refuse_carried(run, keys)
            kept = stats.rows - self._dropped
            self._dropped += self._copied
            repeated = "which impressions repeat, " if self.on_duplicates is OnDuplicates.KEEP_ONE else ""
            return self._summary(
                replace(stats, rows=stats.rows + self._copied),
                version,
                dry_run=True,
                requests=stats.requests - self._left_out,
                impressions=kept,
                hints=(f"whether request columns are constant, {repeated}and what the gate says, a write alone tells",),
            )
