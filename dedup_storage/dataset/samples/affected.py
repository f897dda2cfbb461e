"""A named sample as the users of a backfill."""

from __future__ import annotations

from dataclasses import replace

from dedup_storage.dataset.backfill.request import Affected
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.samples.frames import SampledFrames
from dedup_storage.dataset.samples.store import SampleStore
from dedup_storage.errors import UsageError
from dedup_storage.spark.errors import translated

__all__ = ["affected_by_sample"]


def affected_by_sample(handle: Handle, affected: Affected) -> Affected:
    """The selection with the sample's users and event dates in it.

    Raises:
        UsageError: there is no such sample, it takes parts of users, or users are named beside it.
    """
    if affected.users is not None:
        raise UsageError("users are named twice", expected="users or a sample")
    with translated():
        sample = SampleStore(handle).load(str(affected.sample))
        spec = sample.spec
        if spec.caps.limited:
            raise UsageError(
                f"the sample {sample.name} caps users, so it cannot say which rows a backfill takes",
                expected="a sample of whole users",
                fix="Make one without caps, or materialise this one and backfill that dataset.",
            )
        starts = [affected.first_date] if affected.first_date is not None else []
        ends = [affected.last_date] if affected.last_date is not None else []
        starts += [spec.start.isoformat()] if spec.start is not None else []
        ends += [spec.end.isoformat()] if spec.end is not None else []
        first, last = max(starts, default=None), min(ends, default=None)
        users = SampledFrames(handle, sample, None).users().select(handle.schema.user)
        # The name stays, since it tells this request from others.
        return replace(affected, users=users, first_date=first, last_date=last)
