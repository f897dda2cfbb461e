"""How many users each stratum gives: proportional, equal or Neyman, with a minimum. Exact to the user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

from dedup_storage.errors import UsageError, known_names
from dedup_storage.words import counted

__all__ = ["Allocation", "allocate", "check_targets"]

_NOTHING = 1e-12


class Allocation(StrEnum):
    """Rules that divide a sample's size n among strata of N_h users.

    ``proportional``: n_h proportional to N_h. ``equal``: the same for each. ``neyman``: proportional to N_h S_h with
    S_h the standard deviation of a chosen measure in the stratum, which makes the variance of its mean least (Neyman
    1934; Cochran, Sampling Techniques, 3rd ed., 5.5).
    """

    PROPORTIONAL = "proportional"
    EQUAL = "equal"
    NEYMAN = "neyman"


def allocate(
    rule: Allocation | str,
    size: int,
    users: Mapping[str, int],
    *,
    deviations: Mapping[str, float | None] | None = None,
    minimum: int = 0,
) -> dict[str, int]:
    """Users to take of each stratum; together exactly ``size``.

    The rule divides the size, but no stratum gives fewer than ``minimum`` (or than all of its users) or more than it
    has; what these bounds add or leave over is shared by the others, still by the rule. Fractions are rounded by
    largest remainder, ties by name.

    Args:
        rule: How to divide.
        size: Users to take in all.
        users: Users in each stratum.
        deviations: Standard deviation in each stratum, for ``neyman``; ``None`` where nobody has the measure.
        minimum: Fewest users of a stratum.

    Raises:
        UsageError: the size is larger than all strata together or smaller than the minimums, or the rule is unknown.
    """
    if rule not in list(Allocation):
        raise UsageError(f"the allocation {rule} does not exist", expected=known_names(str(rule), Allocation))
    total = sum(users.values())
    if not 0 < size <= total:
        raise UsageError("the sample's size cannot be reached", expected=f"1 to {total} users", got=str(size))
    if minimum < 0:
        raise UsageError("the minimum per stratum is negative", expected="0 or more", got=str(minimum))
    least = {name: min(minimum, count) for name, count in users.items()}
    if sum(least.values()) > size:
        raise UsageError(
            f"the minimum of {counted(minimum, 'user')} in each of {len(users)} strata is more than the sample's size",
            expected=f"a size of at least {sum(least.values())}",
            got=str(size),
        )
    weight = _weights(Allocation(rule), users, deviations if deviations is not None else {})
    return _fill(least, users, weight, size)


def _weights(rule: Allocation, users: Mapping[str, int], deviations: Mapping[str, float | None]) -> dict[str, float]:
    if rule is Allocation.EQUAL:
        return dict.fromkeys(users, 1.0)
    if rule is Allocation.PROPORTIONAL:
        return {name: float(count) for name, count in users.items()}
    weights = {}
    for name, count in users.items():
        deviation = deviations.get(name)
        if deviation is None or not math.isfinite(deviation):
            raise UsageError(
                f"Neyman allocation lacks the deviation of the stratum {name}",
                fix="Choose a measure that every stratum has, or another rule.",
            )
        weights[name] = count * deviation
    if not any(weights.values()):
        raise UsageError(
            "Neyman allocation has nothing to go by: the measure is constant in every stratum",
            fix="Choose another measure, or the rule proportional.",
        )
    # A stratum whose weight is nothing beside the others' gets what its minimum gives it.
    top = max(weights.values())
    return {name: value / top if value / top > _NOTHING else 0.0 for name, value in weights.items()}


def _fill(low: Mapping[str, int], high: Mapping[str, int], weight: Mapping[str, float], size: int) -> dict[str, int]:
    """Whole numbers near ``factor * weight`` within their bounds, for the one factor that makes them add up."""
    weighted = {name for name, value in weight.items() if value > 0}
    if sum(high[n] if n in weighted else low[n] for n in high) < size:
        # Strata of weight 0 give only what the others cannot.
        rest = {n: low[n] for n in high if n not in weighted}
        taken = {n: high[n] for n in weighted}
        by_size = {n: float(high[n]) for n in rest}
        filled = _fill(rest, {n: high[n] for n in rest}, by_size, size - sum(taken.values()))
        return {n: taken[n] if n in taken else filled[n] for n in high}

    def shares(factor: float) -> dict[str, float]:
        return {n: min(max(factor * weight[n], low[n]), high[n]) for n in high}

    least, most = 0.0, max((high[n] / weight[n] for n in weighted), default=0.0)
    # Down to neighbouring floats, however far the weights lie apart.
    while least < (middle := (least + most) / 2) < most:
        if math.fsum(shares(middle).values()) < size:
            least = middle
        else:
            most = middle
    share = shares(most)
    result = {name: math.floor(value) for name, value in share.items()}
    order = sorted(result, key=lambda n: (result[n] - share[n], n))
    rest_users = size - sum(result.values())
    while rest_users > 0:
        # One round is enough but for rounding errors; each gives a user to whoever lost most to its floor.
        for name in [n for n in order if result[n] < high[n]][:rest_users]:
            result[name] += 1
        rest_users = size - sum(result.values())
    return result


def check_targets(targets: Mapping[str, int], users: Mapping[str, int]) -> dict[str, int]:
    """Targets for strata that exist and hold as many.

    Raises:
        UsageError: a stratum does not exist or is empty, or the target is larger than it or negative.
    """
    for name, target in targets.items():
        there = users.get(name, 0)
        if there == 0:
            raise UsageError(f"there is no stratum {name}, or it is empty", expected=known_names(name, users))
        if not 0 <= target <= there:
            raise UsageError(f"the target of the stratum {name} cannot be reached", expected=f"0 to {there} users",
                             got=str(target))  # fmt: skip
    return {name: targets.get(name, 0) for name in users}
