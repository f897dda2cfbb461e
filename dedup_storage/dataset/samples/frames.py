"""Rows of a sample: requests, impressions and the flat log, each with its weight.

Weights are inverse inclusion probabilities and multiply along the grains (multistage sampling; Saerndal, Swensson,
Wretman 1992, 4.3):

- user: ``w_u = 1 / pi_u``;
- request: ``w_u * n_u / min(k, n_u)`` with at most k of the user's n_u requests at random, else ``w_u``;
- impression: the request's weight, for a negative times ``n / m`` when m of the request's n negatives stay, or
  ``1 / share`` when each stays with a share's chance; positives all stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.read import frames as read
from dedup_storage.dataset.samples.columns import label_value, row_hash, user_point
from dedup_storage.dataset.samples.store import SAMPLED, SampleStore
from dedup_storage.dataset.samples.users import STRATUM, in_dates
from dedup_storage.errors import UnknownColumnError, UsageError, known_names
from dedup_storage.sampling.definition import Keep, Sample
from dedup_storage.sampling.hashing import POINT_SHIFT, POINTS, limit
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT, USER_WEIGHT
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated

__all__ = ["SampledFrames", "sampled"]

_FACTOR, _ORDER, _RANK = "_factor", "_order", "_rank"
_POSITIVE, _NEGATIVES, _KEPT = "_positive", "_negatives", "_kept"
_BROADCAST_USERS = 1_000_000


class SampledFrames:
    """Cuts a dataset's frames down to a sample.

    Users are filtered by a hash, a bucket or a narrow join before anything wide is joined; caps choose keys from narrow
    columns first. Nothing wide is sorted, and between co-bucketed tables nothing is shuffled.

    Args:
        handle: The dataset.
        sample: The sample.
        version: Whose rows are read.
    """

    def __init__(self, handle: Handle, sample: Sample, version: int | None) -> None:
        self.handle, self.sample = handle, sample
        self.cut = handle.cut(version)
        # Columns, and what they mean, are those of the version, which may have fewer or more than the newest.
        self.version, self.spec = self.cut.version, self.cut.spec
        self._keys = list(self.spec.request_key)

    def users(self) -> DataFrame:
        """Sampled users with ``stratum`` and ``user_weight``."""
        user = self.spec.schema_.user
        if self.sample.table is not None:
            rows = SampleStore(self.handle).users(self.sample).filter(SAMPLED)
            return rows.select(user, STRATUM, USER_WEIGHT)
        seen = in_dates(read.requests(self.handle, self.version), self.cut, self.sample.spec).select(user).distinct()
        kept = self.restrict(seen)
        return kept.select(user, F.lit("all").alias(STRATUM), USER_WEIGHT)

    def restrict(self, df: DataFrame, *, stratum: bool = False) -> DataFrame:
        """Rows of sampled users, ``user_weight`` (and the stratum) appended."""
        sample, user = self.sample, self.spec.schema_.user
        chosen = sample.buckets_among(self.spec.buckets)
        if chosen:
            df = self.handle.tables.rows_of_buckets(self.spec, df, chosen)
        if sample.table is not None:
            labels = [STRATUM] if stratum else []
            users = self.users().select(user, USER_WEIGHT, *labels)
            hint = "broadcast" if sample.users <= _BROADCAST_USERS else "shuffle_hash"
            return df.join(users.hint(hint), user).select(*df.columns, USER_WEIGHT, *labels)
        low, high = sample.spec.points()
        if sample.spec.buckets is None and (low, high) != (0, POINTS):
            point = user_point(df, user, sample.spec.seed)
            df = df.filter((point >= low) & (point < high))
        weight = F.lit(float(sample.strata[0].weight)).alias(USER_WEIGHT)
        return df.select("*", weight, *([F.lit("all").alias(STRATUM)] if stratum else []))

    # -- which rows ---------------------------------------------------------------------------------------------
    def _chosen_requests(self) -> DataFrame | None:
        """Keys of the requests that dates and caps leave, with the factor of their weight; ``None`` for all."""
        spec, caps = self.sample.spec, self.sample.spec.caps
        if spec.start is None and spec.end is None and caps.requests is None:
            return None
        rows = in_dates(read.requests(self.handle, self.version), self.cut, spec)
        time = self.spec.schema_.event_time
        narrow = self.restrict(rows.select(*self._keys, *([time] if time else [])))
        if caps.requests is None:
            return narrow.select(*self._keys, F.lit(1.0).alias(_FACTOR))
        if caps.keep is not Keep.RANDOM and time is None:
            raise UsageError(
                f"the dataset {self.spec.name} has no event time to keep the {caps.keep.value} requests by"
            )
        order: list[Column] = [row_hash(narrow, self._keys, spec.seed)]
        if caps.keep is not Keep.RANDOM:
            order.insert(0, F.col(str(time)).desc() if caps.keep is Keep.LATEST else F.col(str(time)).asc())
        user = self.spec.schema_.user
        ranked = narrow.select(
            *self._keys,
            F.row_number().over(Window.partitionBy(user).orderBy(*order, *self._keys)).alias(_RANK),
            F.count(F.lit(1)).over(Window.partitionBy(user)).alias(_KEPT),
        )
        factor = F.lit(1.0)
        if caps.keep is Keep.RANDOM:
            factor = F.col(_KEPT) / F.least(F.col(_KEPT), F.lit(caps.requests))
        return ranked.filter(F.col(_RANK) <= caps.requests).select(*self._keys, factor.alias(_FACTOR))

    def _chosen_impressions(self) -> DataFrame | None:
        """Keys of the impressions that caps leave, with the factor of their weight; ``None`` for all."""
        spec, caps = self.sample.spec, self.sample.spec.caps
        if caps.impressions is None and not caps.negatives:
            return None
        keys = list(self.spec.impression_key)
        label = self._label()
        rows = self.restrict(read.impressions(self.handle, self.version).select(*keys, label), stratum=True)
        positive = F.coalesce(label_value(rows, label) > 0, F.lit(False))
        rows = rows.select(*keys, STRATUM, positive.alias(_POSITIVE), row_hash(rows, keys, spec.seed).alias(_ORDER))
        if caps.negatives:
            return self._by_share(rows, keys)
        request = Window.partitionBy(*self._keys)
        ranked = rows.select(
            *keys,
            _POSITIVE,
            F.row_number().over(Window.partitionBy(*self._keys, _POSITIVE).orderBy(_ORDER, *keys)).alias(_RANK),
            F.count(F.when(~F.col(_POSITIVE), 1)).over(request).alias(_NEGATIVES),
            F.greatest(F.lit(caps.impressions) - F.count(F.when(F.col(_POSITIVE), 1)).over(request), F.lit(1)).alias(
                _KEPT
            ),
        )
        factor = F.when(F.col(_POSITIVE), 1.0).otherwise(F.col(_NEGATIVES) / F.least(_NEGATIVES, _KEPT))
        kept = ranked.filter(F.col(_POSITIVE) | (F.col(_RANK) <= F.col(_KEPT)))
        return kept.select(*keys, factor.alias(_FACTOR))

    def _by_share(self, rows: DataFrame, keys: Sequence[str]) -> DataFrame:
        shares = dict(self.sample.spec.caps.negatives)
        labels = [s.label for s in self.sample.strata]
        for name in shares:
            if name != "*" and name not in labels:
                raise UsageError(f"there is no stratum {name}", expected=known_names(name, labels))
        share = F.lit(shares.pop("*", 1.0))
        for name, value in shares.items():
            share = F.when(F.col(STRATUM) == name, F.lit(value)).otherwise(share)
        point = F.shiftrightunsigned(_ORDER, POINT_SHIFT)
        kept = rows.withColumn(_KEPT, share).filter(
            F.col(_POSITIVE) | (point < F.round(F.col(_KEPT) * F.lit(float(limit(1.0)))).cast("bigint"))
        )
        return kept.select(*keys, F.when(F.col(_POSITIVE), 1.0).otherwise(1 / F.col(_KEPT)).alias(_FACTOR))

    def _label(self) -> str:
        labels, wanted = self.spec.schema_.labels, self.sample.spec.caps.label
        if wanted is not None and wanted not in labels:
            raise UnknownColumnError(
                f"the dataset {self.spec.name} has no label {wanted}", expected=known_names(wanted, labels)
            )
        if not labels:
            raise UsageError(f"the dataset {self.spec.name} has no label that tells positives", fix="Leave caps out.")
        return wanted if wanted is not None else labels[0]

    # -- frames -------------------------------------------------------------------------------------------------
    def _cut(self, df: DataFrame, chosen: DataFrame | None, keys: Sequence[str], old: str, new: str) -> DataFrame:
        columns = [c for c in df.columns if c != old]
        if chosen is None:
            return df.select(*columns, F.col(old).alias(new))
        joined = df.join(chosen.hint("shuffle_hash"), list(keys))
        return joined.select(*columns, (F.col(old) * F.col(_FACTOR)).alias(new))

    def requests(self, df: DataFrame) -> DataFrame:
        """Request rows of the sample, ``request_weight`` appended."""
        return self._cut(self.restrict(df), self._chosen_requests(), self._keys, USER_WEIGHT, REQUEST_WEIGHT)

    def impressions(self, df: DataFrame) -> DataFrame:
        """Impression rows of the sample, ``impression_weight`` appended."""
        rows = self._cut(self.restrict(df), self._chosen_requests(), self._keys, USER_WEIGHT, REQUEST_WEIGHT)
        keys = list(self.spec.impression_key)
        return self._cut(rows, self._chosen_impressions(), keys, REQUEST_WEIGHT, IMPRESSION_WEIGHT)

    def logs(self, df: DataFrame) -> DataFrame:
        """Flat rows of the sample, ``impression_weight`` appended."""
        chosen = self._chosen_impressions()
        if chosen is None:
            return self._cut(self.restrict(df), self._chosen_requests(), self._keys, USER_WEIGHT, IMPRESSION_WEIGHT)
        # The flat log need not show positions: its two grains are cut apart and joined.
        requests = self._cut(
            self.restrict(read.requests(self.handle, self.version)),
            self._chosen_requests(),
            self._keys,
            USER_WEIGHT,
            _RANK,
        )
        impressions = self.impressions(read.impressions(self.handle, self.version))
        joined = impressions.join(requests.hint("merge"), self._keys)
        return joined.select(*df.columns, IMPRESSION_WEIGHT)


def sampled(handle: Handle, name: str, df: DataFrame, grain: Grain | None, version: int | None) -> DataFrame:
    """A frame of a dataset cut down to a named sample.

    Args:
        handle: The dataset.
        name: The sample.
        df: ``requests()``, ``impressions()`` or ``logs()``.
        grain: Which of them; ``None`` for the flat log.
        version: The version it was read from.
    """
    with translated():
        frames = SampledFrames(handle, SampleStore(handle).load(name), version)
        if grain is Grain.REQUEST:
            return frames.requests(df)
        return frames.impressions(df) if grain is Grain.IMPRESSION else frames.logs(df)
