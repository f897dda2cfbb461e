"""Sampling without Spark: the hash, allocation, definitions, disjoint and nested samples."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.errors import SchemaError, UsageError
from dedup_storage.sampling.allocation import Allocation, allocate, check_targets
from dedup_storage.sampling.definition import Sample, SampleSpec, StratumCount
from dedup_storage.sampling.disjoint import disjoint, nested, split_specs
from dedup_storage.sampling.hashing import POINTS, limit, user_points, xxh64_longs, xxh64_strings
from dedup_storage.sampling.select import choose_buckets, make_selector

_MASK = 2**64 - 1
_P = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def _rotate(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & _MASK


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"minimum": 2}, "minimum"),
        ({"allocation": "equal"}, "allocation"),
        ({"caps": {"keep": "random"}}, "caps.keep"),
        ({"caps": {"requests": 3, "label": "y"}}, "caps.label"),
    ],
)
def test_a_field_that_changes_nothing_is_refused(given: dict[str, Any], field: str) -> None:
    """When a sample is made; a stored definition that has one is read as ever."""
    spec = SampleSpec.from_dict({"fraction": 0.5, **given})
    with pytest.raises(UsageError, match=f"^{field} does nothing in the definition of a sample without "):
        spec.refuse_idle()
    SampleSpec.from_dict({"fraction": 0.5, "caps": {"requests": 3, "keep": "random"}}).refuse_idle()
    with pytest.raises(UsageError, match="seed does nothing without shares"):
        split_specs(None, {"a": (None, None)}, seed=3)


def plain_xxh64(data: bytes, seed: int) -> int:
    """XXH64 as its specification writes it, byte by byte."""
    p1, p2, p3, p4, p5 = _P
    at = 0

    def word() -> int:
        return int.from_bytes(data[at : at + 8], "little")

    def one(acc: int, lane: int) -> int:
        return _rotate((acc + lane * p2) & _MASK, 31) * p1 & _MASK

    if len(data) >= 32:
        acc = [(seed + p1 + p2) & _MASK, (seed + p2) & _MASK, seed & _MASK, (seed - p1) & _MASK]
        while at + 32 <= len(data):
            for i in range(4):
                acc[i] = one(acc[i], word())
                at += 8
        h = sum(_rotate(a, r) for a, r in zip(acc, (1, 7, 12, 18), strict=True)) & _MASK
        for a in acc:
            h = ((h ^ one(0, a)) * p1 + p4) & _MASK
    else:
        h = (seed + p5) & _MASK
    h = (h + len(data)) & _MASK
    while at + 8 <= len(data):
        h = (_rotate(h ^ one(0, word()), 27) * p1 + p4) & _MASK
        at += 8
    if at + 4 <= len(data):
        h = (_rotate(h ^ (int.from_bytes(data[at : at + 4], "little") * p1 & _MASK), 23) * p2 + p3) & _MASK
        at += 4
    for byte in data[at:]:
        h = _rotate(h ^ (byte * p5 & _MASK), 11) * p1 & _MASK
    h = (h ^ (h >> 33)) * p2 & _MASK
    h = (h ^ (h >> 29)) * p3 & _MASK
    return h ^ (h >> 32)


def test_published_values() -> None:
    found = xxh64_strings(pa.array(["", "a", "abc"]), 0).tolist()
    assert found == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=90), max_size=20), st.integers(0, 2**63 - 1))
def test_strings_hash_as_the_specification_says(texts: list[str], seed: int) -> None:
    found = xxh64_strings(pa.array(["x", *texts], pa.string())[1:], seed).tolist()
    assert found == [plain_xxh64(t.encode(), seed) for t in texts]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.integers(0, 2**63 - 1))
def test_integers_hash_as_the_specification_says(values: list[int], seed: int) -> None:
    found = xxh64_longs(np.array(values, dtype=np.int64), seed).tolist()
    assert found == [plain_xxh64(v.to_bytes(8, "little", signed=True), seed) for v in values]


def test_points_do_not_depend_on_arrays_or_processes() -> None:
    ids = pa.array([-(2**63), -1, 0, 1, 7, 2**31, 2**63 - 1], pa.int64())
    points = user_points(ids, 3)
    assert user_points(pa.chunked_array([ids[:2], ids[2:]]), 3).tolist() == points.tolist()
    assert user_points(np.array([0, 1, 7], dtype=np.int32), 3).tolist() == points[2:5].tolist()
    texts = pa.array(["é", "", "日本" * 20])
    assert user_points(texts.dictionary_encode(), 3).tolist() == user_points(texts.cast(pa.large_string()), 3).tolist()
    code = (
        "import pyarrow as pa; from dedup_storage.sampling.hashing import user_points; "
        "print(*user_points(pa.array(['é', '', '日本' * 20]), 3))"
    )
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert [int(v) for v in done.stdout.split()] == user_points(texts, 3).tolist()


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_points_are_uniform_over_100_seeds(kind: str) -> None:
    """Chi-square of 50 equal cells for each of 100 seeds: their p-values look uniform too, none is absurd."""
    numbers = np.arange(-5_000, 5_000, dtype=np.int64)
    users = pa.array(numbers) if kind == "integers" else pa.array([f"user-{n}" for n in numbers])
    cells, expected = 50, len(numbers) / 50
    z = []
    for seed in range(100):
        counts = np.bincount(user_points(users, seed) * cells // POINTS, minlength=cells)
        chi = float(((counts - expected) ** 2 / expected).sum())
        k = cells - 1
        # Wilson and Hilferty's cube root makes chi-square normal.
        z.append(((chi / k) ** (1 / 3) - (1 - 2 / (9 * k))) / (2 / (9 * k)) ** 0.5)
    p = [1 - NormalDist().cdf(v) for v in z]
    assert min(p) > 1e-4
    assert max(p) < 1 - 1e-4
    assert 0 <= sum(v < 0.05 for v in p) <= 14
    assert abs(float(np.mean(z))) < 0.4


def test_seeds_choose_independently() -> None:
    users = np.arange(20_000, dtype=np.int64)
    both = np.mean((user_points(users, 1) < limit(0.1)) & (user_points(users, 2) < limit(0.1)))
    assert 0.007 < both < 0.013


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**40))
def test_smaller_shares_lie_inside_larger(a: float, b: float, seed: int) -> None:
    small, large = (SampleSpec(fraction=f, seed=seed) for f in sorted((a, b)))
    users = pa.array(np.arange(200, dtype=np.int64))
    inside, outside = (_selector(s).keep(users) for s in (small, large))
    assert not np.any(inside & ~outside)
    assert nested(small, large)


def _selector(spec: SampleSpec) -> Any:
    count = StratumCount(label="all", users=1, sampled=1, probability=spec.fraction or 1.0)
    return make_selector(Sample(name="s", spec=spec, version=1, run_id="r", created_ms=0, strata=(count,)))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=5), st.integers(0, 2**40))
def test_divisions_by_user_share_nobody_and_leave_nobody(shares: list[float], seed: int) -> None:
    total = sum(shares)
    specs = split_specs({f"s{i}": share / total for i, share in enumerate(shares)}, seed=seed)
    users = pa.array(np.arange(300, dtype=np.int64))
    taken = np.sum([_selector(spec).keep(users) for spec in specs.values()], axis=0)
    assert np.all(taken == 1)
    listed = list(specs.values())
    for i, one in enumerate(listed):
        assert all(disjoint(one, two) and disjoint(two, one) for two in listed[i + 1 :])
    ranges = [spec.points() for spec in listed]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == POINTS
    assert all(a[1] == b[0] for a, b in pairwise(ranges))


days = st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 9))


@given(st.tuples(days, days, days, days).map(sorted), st.booleans())
def test_divisions_by_time(bounds: list[dt.date], shared: bool) -> None:
    dates = {"train": (bounds[0], bounds[1]), "test": (bounds[2], bounds[3])}
    shares = {"train": 0.5, "test": 0.5} if shared else None
    if bounds[1] >= bounds[2]:
        with pytest.raises(UsageError, match="overlap"):
            split_specs(shares, dates)
        return
    specs = split_specs(shares, dates)
    assert disjoint(specs["train"], specs["test"])
    assert (specs["train"].start, specs["train"].end) == (bounds[0], bounds[1])
    users = pa.array(np.arange(50, dtype=np.int64))
    both = _selector(specs["train"]).keep(users) & _selector(specs["test"]).keep(users)
    assert np.any(both) != shared


def test_overlapping_definitions_are_not_called_disjoint_or_nested() -> None:
    one, two = SampleSpec(fraction=0.5), SampleSpec(fraction=0.3, offset=0.4)
    assert not disjoint(one, two)
    assert not nested(two, one)
    assert not disjoint(SampleSpec(fraction=0.5), SampleSpec(fraction=0.5, offset=0.5, seed=1))
    early, late = SampleSpec(fraction=1, end=dt.date(2024, 1, 1)), SampleSpec(fraction=1, start=dt.date(2024, 1, 2))
    assert disjoint(late, early)
    assert nested(early, SampleSpec(fraction=1))
    assert not nested(SampleSpec(fraction=1), early)


def test_a_share_lies_in_another_where_no_stratum_takes_more() -> None:
    def spec(start: dt.date | None = None, **fractions: float) -> SampleSpec:
        given = {name.replace("rest", "*"): share for name, share in fractions.items()}
        return SampleSpec.from_dict({"fractions": given, "strata": [_country()], "start": start})

    assert nested(spec(rest=0.5), spec(FR=0.6, rest=0.5))
    assert nested(spec(FR=0.1, DK=0.2), spec(rest=0.2))
    # A stratum that the smaller one does not name takes what it gives to all others.
    assert not nested(spec(rest=0.5), spec(FR=0.1, rest=0.9))
    assert not nested(spec(FR=0.1, rest=0.5), spec(FR=0.1, DK=0.2))
    # Strata of other dates may be others.
    assert not nested(spec(rest=0.5, start=dt.date(2024, 1, 2)), spec(rest=0.5))


strata = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 50), min_size=1)


@given(strata, st.data(), st.sampled_from(list(Allocation)), st.integers(0, 6))
def test_allocation_is_exact_and_within_bounds(
    users: dict[str, int], data: st.DataObject, rule: Allocation, minimum: int
) -> None:
    floor = sum(min(minimum, n) for n in users.values())
    size = data.draw(st.integers(max(floor, 1), sum(users.values())))
    spread = {name: data.draw(st.floats(0, 10)) for name in users}
    spread["abcdefg"[0]] = 1.0
    for name in users:
        spread[name] = max(spread[name], 0.01) if name == min(users) else spread[name]
    found = allocate(rule, size, users, deviations=spread, minimum=minimum)
    assert sum(found.values()) == size
    assert all(min(minimum, users[n]) <= found[n] <= users[n] for n in users)
    assert found == allocate(rule, size, dict(reversed(users.items())), deviations=spread, minimum=minimum)


def test_allocation_rules() -> None:
    users = {"a": 800, "b": 150, "c": 50}
    assert allocate("proportional", 100, users) == {"a": 80, "b": 15, "c": 5}
    assert allocate("equal", 99, users) == {"a": 33, "b": 33, "c": 33}
    assert allocate("equal", 300, users) == {"a": 125, "b": 125, "c": 50}
    # N_h S_h = 800, 450, 250
    assert allocate("neyman", 150, users, deviations={"a": 1, "b": 3, "c": 5}) == {"a": 80, "b": 45, "c": 25}
    assert allocate("proportional", 100, users, minimum=20) == {"a": 60, "b": 20, "c": 20}


@pytest.mark.parametrize(
    ("call", "needle"),
    [
        (lambda: allocate("even", 1, {"a": 2}), "even"),
        (lambda: allocate("equal", 3, {"a": 2}), "1 to 2 users"),
        (lambda: allocate("equal", 3, {"a": 9, "b": 9}, minimum=2), "at least 4"),
        (lambda: allocate("neyman", 1, {"a": 2}, deviations={"a": float("nan")}), "stratum a"),
        (lambda: allocate("neyman", 1, {"a": 2, "b": 1}, deviations={"a": 1.0, "b": None}), "stratum b"),
        (lambda: allocate("neyman", 1, {"a": 2}, deviations={"a": 0.0}), "constant"),
        (lambda: check_targets({"c": 1}, {"a": 2}), "no stratum c"),
        (lambda: check_targets({"a": 3}, {"a": 2}), "stratum a cannot be reached; expected 0 to 2 users; got 3"),
        (lambda: SampleSpec.from_dict({"fraction": 1.5}), "fraction is 1.5"),
        (lambda: SampleSpec.from_dict({"fractions": {"x": -0.1}, "strata": [_country()]}), "fraction of x is -0.1"),
        (lambda: SampleSpec.from_dict({}), "none of them"),
        (lambda: SampleSpec.from_dict({"fraction": 0.1, "size": 3}), "got fraction, size"),
        (lambda: SampleSpec.from_dict({"fraction": 0.6, "offset": 0.5}), "beyond 1"),
        (lambda: SampleSpec.from_dict({"targets": {"x": 1}}), "need strata"),
        (lambda: SampleSpec.from_dict({"fraction": 0.1, "frction": 0.1}), "frction"),
        (lambda: SampleSpec.from_dict({"fraction": 1, "strata": [{"name": "a", "measure": "requests"}]}), "quantiles"),
        (lambda: SampleSpec.from_dict({"fraction": 1, "strata": [{"name": "a b", "column": "c"}]}), "'a b'"),
        (lambda: SampleSpec.from_dict({"fraction": 1, "caps": {"negatives": {"*": 0}}}), "share of negatives"),
        (lambda: SampleSpec.from_dict({"fraction": 1, "seed": -1}), "seed"),
        (lambda: SampleSpec.from_dict({"fraction": True}), "fraction: true is a truth value"),
        (lambda: SampleSpec.from_dict({"targets": {"x": True}, "strata": [_country()]}), "targets.x: true"),
        (lambda: SampleSpec.from_dict({"size": 5, "allocation": "neyman"}), "by goes with"),
        (lambda: split_specs({"a": 0.7, "b": 0.7}), "more than all users"),
        (lambda: split_specs({"a": 0.5}, {"b": (None, None)}), "different samples"),
        (lambda: split_specs({"a": 0.0}), "share of a"),
        (lambda: user_points(pa.array([1.5]), 0), "integers or strings"),
        (lambda: user_points(pa.array([1]), -1), "seed"),
    ],
)  # fmt: skip
def test_wrong_definitions_are_named(call: Any, needle: str) -> None:
    with pytest.raises((UsageError, SchemaError)) as error:
        call()
    assert needle in str(error.value)


def _country() -> dict[str, str]:
    return {"name": "country", "column": "country"}


def test_records_survive_json() -> None:
    spec = SampleSpec.from_dict({"fractions": {"*": 0.5}, "strata": [_country()], "caps": {"requests": 3}})
    count = StratumCount(label="country=DK", users=10, sampled=4, probability=0.5)
    sample = Sample(
        name="s", spec=spec, version=2, run_id="r", created_ms=5, strata=(count,), table="sm_s", tag="sample-7"
    )
    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    assert sample.users == 4
    assert count.weight == 2


@given(st.integers(1, 64), st.integers(0, 100))
def test_buckets_are_chosen_alike_and_nested(total: int, seed: int) -> None:
    chosen = [set(choose_buckets(k, total, seed)) for k in range(total + 1)]
    assert [len(c) for c in chosen] == list(range(total + 1))
    assert all(a < b for a, b in pairwise(chosen))


def test_stored_users_are_found_with_their_weights() -> None:
    spec = SampleSpec.from_dict({"fractions": {"*": 0.5}, "strata": [_country()]})
    sample = Sample(name="s", spec=spec, version=1, run_id="r", created_ms=0, strata=(), table="t", tag="sample-1")
    selector = make_selector(sample, pa.array(["b", "é"]), np.array([2.0, 4.0]))
    users = pa.chunked_array([pa.array(["a", "é"]), pa.array(["b"])])
    assert selector.keep(users).tolist() == [False, True, True]
    assert selector.weigh(users)[1:].tolist() == [4.0, 2.0]
