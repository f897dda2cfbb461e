"""Making and refreshing a named sample."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.read import frames as read
from dedup_storage.dataset.samples.columns import user_point
from dedup_storage.dataset.samples.store import SAMPLED, SampleStore, pruning_buckets
from dedup_storage.dataset.samples.users import STRATUM, in_dates, labelled, measured
from dedup_storage.errors import StorageError, UsageError, known_names
from dedup_storage.sampling.allocation import Allocation, allocate, check_targets
from dedup_storage.sampling.definition import Sample, SampleSpec, StratumCount
from dedup_storage.sampling.select import choose_buckets
from dedup_storage.sampling.stored import USER_WEIGHT
from dedup_storage.spark.rows import only_row

__all__ = ["make_sample", "refresh_sample"]

_MOST_STRATA = 1_000
_POINT, _HIGH, _TARGET, _RANK, _BY = "_point", "_high", "_target", "_rank", "_by"


@dataclass(frozen=True)
class _Plan:
    """What each stratum gives.

    Attributes:
        users: N_h by label.
        high: End of the range of points, by label, for shares.
        targets: n_h by label, for counts.
        probability: pi_h by label.
    """

    users: Mapping[str, int]
    high: Mapping[str, int]
    targets: Mapping[str, int]
    probability: Mapping[str, float]


def make_sample(
    handle: Handle, name: str, spec: SampleSpec, *, version: int | None, run_id: str, dry_run: bool = False
) -> tuple[Sample, bool]:
    """Make a named sample, or find it made: the sample, and whether anything was done, or by a dry run would be.

    Raises:
        UsageError: a sample of that name has another definition, or the definition does not fit the data.
    """
    store = SampleStore(handle)
    stored = store.find(name)
    if stored is not None:
        if stored.spec == spec:
            return stored, False
        raise UsageError(
            f"the dataset {handle.name} has a sample {name} with another definition",
            expected=stored.spec.model_dump_json(exclude_defaults=True),
            got=spec.model_dump_json(exclude_defaults=True),
            fix="Choose another name, or drop it first.",
        )
    # Of a sample that is there already nothing is refused: an earlier release took such fields.
    spec.refuse_idle()
    made = _make(store, handle.cut(version), name, spec, run_id, None, dry_run=dry_run)
    if not dry_run:
        store.save(made)
    return made, True


def refresh_sample(
    handle: Handle, name: str, *, version: int | None, run_id: str, dry_run: bool = False
) -> tuple[Sample, bool]:
    """Bring a sample to a version's users: the sample, and whether anything was done, or by a dry run would be.

    Users that are known keep their stratum; only new ones are looked at, and divided by the borders found when the
    sample was made. Shares keep every user that was in it. Counts stay exact, so with new users in a stratum some leave
    it for others of lower points. ``proportional`` and ``equal`` sizes are allocated anew, ``neyman`` keeps its counts.
    """
    store = SampleStore(handle)
    before = store.load(name)
    cut = handle.cut(version)
    if before.version == cut.version:
        return before, False
    made = _make(store, cut, name, before.spec, run_id, before, dry_run=dry_run)
    if dry_run:
        return made, True
    store.save(made)
    store.release(before)
    return made, True


def _make(
    store: SampleStore,
    cut: Cut,
    name: str,
    spec: SampleSpec,
    run_id: str,
    before: Sample | None,
    *,
    dry_run: bool = False,
) -> Sample:
    created = int(time.time() * 1000)
    common = {"name": name, "spec": spec, "version": cut.version, "run_id": run_id, "created_ms": created}
    if spec.buckets is not None:
        buckets, counts = _of_buckets(cut, spec)
        own = {"chosen_buckets": buckets, "of_buckets": cut.spec.buckets}
        return Sample.model_validate({**common, "strata": counts, **own})
    if not spec.stored:
        return Sample.model_validate({**common, "strata": _of_hash(cut, spec)})
    if before is None:
        people, borders = labelled(measured(cut, spec), spec)
    else:
        people, borders = _grown(store, cut, spec, before), dict(before.borders)
    people = people.select("*", user_point(people, cut.spec.schema_.user, spec.seed).alias(_POINT)).persist()
    try:
        plan = _plan(people, spec, before)
        chosen = _chosen(cut.handle, people, spec, plan)
        if dry_run:
            made = Sample.model_validate({**common, "strata": (), "borders": borders, "table": f"sm_{name}"})
            return made.model_copy(update=_realised(cut, chosen, plan))
        table, tag = store.write_users(name, chosen, uuid.uuid4().hex)
    finally:
        people.unpersist()
    made = Sample.model_validate({**common, "strata": (), "borders": borders, "table": table, "tag": tag})
    # Read back from what was stored.
    return made.model_copy(update=_realised(cut, store.users(made), plan))


def _users(cut: Cut, spec: SampleSpec) -> DataFrame:
    """Distinct users of the sample's dates."""
    rows = in_dates(read.requests(cut.handle, cut.version), cut, spec)
    return rows.select(cut.spec.schema_.user).distinct()


def _of_buckets(cut: Cut, spec: SampleSpec) -> tuple[tuple[int, ...], list[StratumCount]]:
    total, wanted = cut.spec.buckets, spec.buckets or 0
    if wanted > total:
        raise UsageError(
            f"the dataset {cut.spec.name} has fewer buckets than the sample wants",
            expected=f"1 to {total}",
            got=str(wanted),
        )
    chosen = choose_buckets(wanted, total, spec.seed)
    inside = cut.handle.tables.bucket(cut.spec).isin(*chosen)
    row = only_row(_users(cut, spec).agg(F.count(F.lit(1)).alias("n"), F.count(F.when(inside, 1)).alias("s")))
    return chosen, [StratumCount(label="all", users=row["n"], sampled=row["s"], probability=wanted / total)]


def _of_hash(cut: Cut, spec: SampleSpec) -> list[StratumCount]:
    users = _users(cut, spec)
    low, high = spec.points()
    point = user_point(users, cut.spec.schema_.user, spec.seed)
    inside = (point >= low) & (point < high)
    row = only_row(users.agg(F.count(F.lit(1)).alias("n"), F.count(F.when(inside, 1)).alias("s")))
    share = spec.fraction if spec.fraction is not None else 1.0
    return [StratumCount(label="all", users=row["n"], sampled=row["s"], probability=share)]


def _grown(store: SampleStore, cut: Cut, spec: SampleSpec, before: Sample) -> DataFrame:
    """Users of a version: those known, with their strata, and new ones."""
    user, now = cut.spec.schema_.user, _users(cut, spec)
    known = store.users(before).select(user, STRATUM)
    # Checkpointed rather than planned into what follows: a few users, and Spark 4.1 loses the link of a storage-
    # partitioned join that a later stage plans again.
    new = now.join(known, user, "left_anti").localCheckpoint()
    fresh, _ = labelled(measured(cut, spec, only=new), spec, before.borders)
    return known.join(now, user, "left_semi").unionByName(fresh.select(user, STRATUM))


def _plan(people: DataFrame, spec: SampleSpec, before: Sample | None) -> _Plan:
    spread = [F.stddev_pop(_BY).alias("s")] if _BY in people.columns else []
    grouped = people.groupBy(STRATUM).agg(F.count(F.lit(1)).alias("n"), *spread)
    rows = grouped.orderBy(STRATUM).limit(_MOST_STRATA + 1).collect()
    if len(rows) > _MOST_STRATA:
        raise UsageError(
            "the strata are too many", expected=f"at most {_MOST_STRATA}", fix="Divide numbers by quantiles or cuts."
        )
    users = {row[STRATUM]: int(row["n"]) for row in rows}
    if not users:
        raise UsageError("the version has no users in the sample's dates")
    if spec.size is not None or spec.targets:
        targets = _targets(spec, users, {r[STRATUM]: r["s"] for r in rows} if spread else {}, before)
        return _Plan(users, {}, targets, {name: targets[name] / n for name, n in users.items()})
    shares = (
        dict.fromkeys(users, spec.fraction)
        if spec.fraction is not None
        else _by_label(spec.fractions, users, "fraction")
    )
    return _Plan(users, {name: spec.points(share)[1] for name, share in shares.items()}, {}, shares)


def _targets(
    spec: SampleSpec, users: Mapping[str, int], deviations: Mapping[str, float | None], before: Sample | None
) -> dict[str, int]:
    if spec.size is None:
        return check_targets({n: int(t) for n, t in _by_label(spec.targets, users, "target").items()}, users)
    if before is not None and spec.allocation is Allocation.NEYMAN:
        return check_targets({s.label: s.requested or 0 for s in before.strata}, users)
    return allocate(spec.allocation, spec.size, users, deviations=deviations, minimum=spec.minimum)


def _by_label(values: Mapping[str, float], users: Mapping[str, int], what: str) -> dict[str, float]:
    """A value for every stratum.

    Raises:
        UsageError: a stratum that is named does not exist or is empty, or one that exists is not named.
    """
    for name in values:
        if name != "*" and name not in users:
            raise UsageError(f"there is no stratum {name}, or it is empty", expected=known_names(name, users))
    for name in users:
        if name not in values and "*" not in values:
            raise UsageError(
                f"the stratum {name} has no {what}",
                expected=known_names(name, values),
                fix="Name it, or give * for all others; 0 leaves it out.",
            )
    return {name: values.get(name, values.get("*", 0)) for name in users}


def _chosen(handle: Handle, people: DataFrame, spec: SampleSpec, plan: _Plan) -> DataFrame:
    """All users with whether they are in the sample and what they stand for."""
    user = handle.schema.user
    rows = [
        (name, plan.high.get(name, 0), int(plan.targets.get(name, 0)), 1 / p if (p := plan.probability[name]) else 0.0)
        for name in plan.users
    ]
    strata = handle.spark.createDataFrame(
        rows, f"{STRATUM} string, {_HIGH} bigint, {_TARGET} bigint, {USER_WEIGHT} double"
    )
    joined = people.join(F.broadcast(strata), STRATUM)
    if plan.targets:
        joined = joined.withColumn(_RANK, F.row_number().over(Window.partitionBy(STRATUM).orderBy(_POINT, user)))
        inside = F.col(_RANK) <= F.col(_TARGET)
    else:
        inside = (F.col(_POINT) >= spec.points()[0]) & (F.col(_POINT) < F.col(_HIGH))
    weight = F.when(inside, F.col(USER_WEIGHT)).otherwise(F.lit(0.0))
    return joined.select(user, STRATUM, inside.alias(SAMPLED), weight.alias(USER_WEIGHT))


def _realised(cut: Cut, users: DataFrame, plan: _Plan) -> dict[str, object]:
    """Counts of the users, sampled or not, and the buckets that hold a sampled one unless all do."""
    # One row for each stratum, of which there are _MOST_STRATA at most, with numbers of the dataset's buckets.
    rows = (
        users.filter(SAMPLED)
        .groupBy(STRATUM)
        .agg(F.count(F.lit(1)).alias("n"), F.collect_set(cut.handle.tables.bucket(cut.spec)).alias("buckets"))
        .collect()
    )
    sampled = {row[STRATUM]: int(row["n"]) for row in rows}
    for name, target in plan.targets.items():
        if sampled.get(name, 0) != target:
            raise StorageError(
                f"the stratum {name} did not get the users it was to get",
                expected=str(target),
                got=str(sampled.get(name, 0)),
                fix="The version changed while the sample was made; make it again.",
            )
    strata = tuple(
        StratumCount(
            label=name,
            users=count,
            sampled=sampled.get(name, 0),
            probability=plan.probability[name],
            requested=int(plan.targets[name]) if plan.targets else None,
        )
        for name, count in plan.users.items()
    )
    buckets = {int(b) for row in rows for b in row["buckets"]}
    count = cut.spec.buckets
    return {"strata": strata, "chosen_buckets": pruning_buckets(count, buckets), "of_buckets": count}
