"""Samples that share nothing: train, validation and test by user, by time, or by both."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from itertools import pairwise

from dedup_storage.errors import UsageError
from dedup_storage.sampling.definition import SampleSpec
from dedup_storage.sampling.hashing import POINTS, limit

__all__ = ["disjoint", "nested", "split_specs"]

# Shares such as 0.7 + 0.2 + 0.1 are meant to be everything.
_ROUNDING = 1e-9


def split_specs(
    shares: Mapping[str, float] | None = None,
    dates: Mapping[str, tuple[dt.date | None, dt.date | None]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, SampleSpec]:
    """Definitions of samples without a row in common.

    Args:
        shares: Name -> share of the users, laid end to end in the range of the hash; together at most 1.
        dates: Name -> first and last event date, in order of time. With ``shares`` too, each sample holds its own
            users in its own days: nothing of a test user, and nothing of a test day, is in the training sample.
        seed: Seed of the hash.

    Raises:
        UsageError: shares above 1 in sum, dates that overlap, names that differ, or a seed where no user is drawn.
    """
    if not shares and not dates:
        raise UsageError("a division needs shares of users, dates, or both")
    if not shares and seed:
        raise UsageError("seed does nothing without shares: no users are drawn", fix="Leave it out.")
    if shares and dates and set(shares) != set(dates):
        raise UsageError("shares and dates name different samples", expected=", ".join(shares), got=", ".join(dates))
    for name, share in (shares or {}).items():
        if not 0 < share <= 1:
            raise UsageError(f"the share of {name} is out of range", expected="more than 0, at most 1", got=str(share))
    if shares and math.fsum(shares.values()) > 1 + _ROUNDING:
        raise UsageError("the shares are more than all users", expected="at most 1", got=f"{sum(shares.values()):g}")
    _check_dates(dates if dates is not None else {})
    specs, begin, taken = {}, 0, []
    for name in shares or dates or {}:
        taken.append(shares[name] if shares else 1.0)
        total = math.fsum(taken)
        total = 1.0 if total > 1 - _ROUNDING else total
        # Borders are whole points, which floats hold exactly: no rounding lets a user into two samples or into none.
        end = limit(total) if shares else POINTS
        first, last = (dates or {}).get(name, (None, None))
        specs[name] = SampleSpec.from_dict(
            {"fraction": (end - begin) / POINTS, "offset": begin / POINTS, "seed": seed, "start": first, "end": last}
        )
        begin = end if shares else 0
    return specs


def _check_dates(dates: Mapping[str, tuple[dt.date | None, dt.date | None]]) -> None:
    for (one, (_, end)), (two, (start, _)) in pairwise(dates.items()):
        if end is None or start is None or start <= end:
            raise UsageError(
                f"the dates of {one} and {two} overlap",
                expected=f"{two} to begin after {one} ends",
                got=f"{one} to {end or 'the end'}, {two} from {start or 'the beginning'}",
            )


def _range(spec: SampleSpec) -> tuple[int, int] | None:
    """Points of a sample by share alone."""
    return None if spec.fraction is None else spec.points()


def disjoint(one: SampleSpec, two: SampleSpec) -> bool:
    """Whether the definitions alone say that no row can be in both."""
    a, b = _range(one), _range(two)
    by_user = one.seed == two.seed and a is not None and b is not None and (a[1] <= b[0] or b[1] <= a[0])
    first, second = sorted((one, two), key=lambda s: s.start or dt.date.min)
    by_time = first.end is not None and second.start is not None and first.end < second.start
    return by_user or by_time


def nested(inner: SampleSpec, outer: SampleSpec) -> bool:
    """Whether the definitions alone say that every user of ``inner`` is in ``outer``, of whatever version both are."""
    a, b = _range(inner), _range(outer)
    if inner.seed != outer.seed or inner.strata != outer.strata or not _dates_within(inner, outer):
        return False
    if a is not None and b is not None:
        return b[0] <= a[0] and a[1] <= b[1]
    if inner.fractions and outer.fractions and inner.offset == outer.offset:
        return _below(inner.fractions, outer.fractions)
    return bool(inner.targets and outer.targets) and _below(inner.targets, outer.targets)


def _dates_within(inner: SampleSpec, outer: SampleSpec) -> bool:
    """Whether users seen in the dates of one are seen in those of the other, and in the same strata."""
    if inner.strata:
        return (inner.start, inner.end) == (outer.start, outer.end)
    begins = outer.start is None or (inner.start is not None and inner.start >= outer.start)
    ends = outer.end is None or (inner.end is not None and inner.end <= outer.end)
    return begins and ends


def _below(inner: Mapping[str, float], outer: Mapping[str, float]) -> bool:
    """Whether no stratum gives more to the one than to the other; each names all strata, ``*`` those left over."""
    named = {*inner, *outer} if "*" in inner and "*" in outer else {*inner, *outer} - {"*"}
    return all(inner.get(name, inner.get("*", 0)) <= outer.get(name, outer.get("*", 0)) for name in named)
