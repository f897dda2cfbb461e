"""The users of a dataset's named sample, as a report measures them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError, UsageError, known_names
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.select import Selector, make_selector
from dedup_storage.sampling.stored import USER_WEIGHT, parse_sample

__all__ = ["NamedUsers", "named_users"]


@dataclass(frozen=True)
class NamedUsers:
    """Whom a named sample takes.

    Attributes:
        selector: Tells its users.
        share: Share of all users that it took.
        buckets: Buckets that hold its users, as partitions name them; ``None`` for all.
    """

    selector: Selector
    share: float
    buckets: frozenset[str] | None


def named_users(settings: Settings, dataset: str, name: str, version: int | None = None) -> NamedUsers:
    """The users of a named sample.

    Args:
        settings: Where the catalog is.
        dataset: The dataset.
        name: The sample.
        version: Whose files are to be read; ``None`` for the newest.

    Raises:
        UsageError: there is no such sample, or its users do not stand for all users alike.
        StorageError: its users are gone.
    """
    meta = open_lake(settings).load(dataset)
    text, names = meta.samples.get(name), list(meta.samples)
    if text is None:
        raise UsageError(
            f"the dataset {dataset} has no sample {name}",
            expected=known_names(name, names) if names else "a stored sample; there is none",
            fix="Make it with: dedup-storage sample create.",
        )
    try:
        sample = parse_sample(text)
    except ValidationError:
        raise UsageError(
            f"the sample {name} of {dataset} cannot be read by this release", fix="Install a newer dedup_storage."
        ) from None
    _require_plain(sample)
    taken, users = (sum(getattr(s, what) for s in sample.strata) for what in ("sampled", "users"))
    if not taken:
        raise UsageError(f"the sample {name} of {dataset} has no users", fix="Make a larger one.")
    chosen = sample.buckets_among(meta.spec_of(meta.resolve(version)).buckets)
    buckets = frozenset(map(str, chosen)) if chosen else None
    return NamedUsers(_selector(meta, sample), taken / users, buckets)


def _require_plain(sample: Sample) -> None:
    """What a report says of a sample it says of all users: so each must have had the same chance, and be whole."""
    spec = sample.spec
    chances = {s.probability for s in sample.strata}
    if spec.caps.limited or spec.start is not None or spec.end is not None or len(chances) > 1:
        raise UsageError(
            f"the sample {sample.name} does not stand for all users alike",
            expected="one chance for every user, no caps and no dates",
            got=f"{len(chances)} chances" if len(chances) > 1 else "caps or dates",
            fix="Make one with fraction=… or buckets=…, or materialise this one and report on that.",
        )


def _selector(meta: DatasetMetadata, sample: Sample) -> Selector:
    if sample.table is None:
        return make_selector(sample)
    user = meta.spec.schema_.user
    rows = meta.stored_users.read(sample.table, str(sample.tag), "sampled", (user, USER_WEIGHT))
    if rows is None:
        raise StorageError(f"the users of the sample {sample.name} are gone", fix="Drop it and make it again.")
    return make_selector(sample, rows[user].combine_chunks(), np.asarray(rows[USER_WEIGHT].to_numpy()))
