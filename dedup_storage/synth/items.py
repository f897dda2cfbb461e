"""The items of a synthetic log, and the candidates that requests are answered with. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dedup_storage.synth.params import SECOND_US, SynthParams
from dedup_storage.synth.philox import Stream, uniform, words
from dedup_storage.synth.population import Floats, Ints, Requests, population, ragged_arange

__all__ = ["Candidates", "Catalogue", "candidates", "catalogue", "zipf_shares"]

_ZIPF_REDRAWS = 8
_MOST_REDRAWS = 256 - int(Stream.REDRAW)


@dataclass(frozen=True)
class Catalogue:
    """The items by popularity rank, most popular first: (items,) cumulative shares, ids, prices."""

    cumulative: Floats
    ids: Ints
    prices: Floats

    def draw(self, quantile: Floats) -> Ints:
        """Popularity ranks by inverse transform."""
        return np.searchsorted(self.cumulative, quantile, side="right")


@dataclass(frozen=True)
class Candidates:
    """Candidates of some requests, request after request: parallel arrays of (impressions,).

    Attributes:
        request: Row of the request among those asked for.
        position: Ordinal inside the request.
        rank: Popularity rank of the item; the ranks of one request differ.
        label: 0 or 1.
        late: Whether the label lands later.
        delay_us: How much later.
    """

    request: Ints
    position: Ints
    rank: Ints
    label: NDArray[np.int32]
    late: NDArray[np.bool_]
    delay_us: Ints


def zipf_shares(items: int, exponent: float) -> Floats:
    """Probability of each rank, (items,): r ** -exponent over its sum, r from 1."""
    weights = np.arange(1, items + 1, dtype=np.float64) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares


@lru_cache(maxsize=8)
def _catalogue(seed: int, items: int, exponent: float) -> Catalogue:
    cumulative = np.cumsum(zipf_shares(items, exponent))
    cumulative[-1] = 1.0
    order, price, _, _ = words(seed, Stream.ITEM, index=np.arange(items))
    ids = 1_000_000 + np.argsort(order, kind="stable").astype(np.int64)
    return Catalogue(cumulative, ids, np.round(1 + 99 * uniform(price) ** 3, 2))


def catalogue(params: SynthParams) -> Catalogue:
    """The items of a log."""
    return _catalogue(params.seed, params.items, params.item_exponent)


def candidates(params: SynthParams, requests: Requests) -> Candidates:
    """The candidates of requests: distinct items drawn by popularity, labels drawn by the user's click rate."""
    counts = requests.candidates
    request = np.repeat(np.arange(len(requests), dtype=np.int64), counts)
    position = ragged_arange(np.zeros_like(counts), counts)
    user, ordinal = requests.user[request], requests.ordinal[request]
    item, click, late, delay = words(params.seed, Stream.CANDIDATE, user, ordinal, position)
    goods = catalogue(params)
    rank = goods.draw(uniform(item))
    open_rows = np.arange(len(request))
    for attempt in range(_MOST_REDRAWS):
        again = open_rows[_repeated(request[open_rows], rank[open_rows], params.items)]
        if not len(again):
            break
        quantile = uniform(words(params.seed, Stream.REDRAW + attempt, user[again], ordinal[again], position[again])[0])
        # Popular items run out in long lists; what is still missing then comes from the whole catalogue alike.
        zipf = attempt < _ZIPF_REDRAWS
        rank[again] = goods.draw(quantile) if zipf else np.floor(quantile * params.items).astype(np.int64)
        open_rows = np.flatnonzero(np.isin(request, request[again]))
    return Candidates(
        request=request,
        position=position,
        rank=rank,
        label=(uniform(click) < population(params).click_rate[user]).astype(np.int32),
        late=uniform(late) < params.late_labels,
        delay_us=_exponential_us(uniform(delay), params.label_delay_seconds),
    )


def _exponential_us(quantile: Floats, mean_seconds: float) -> Ints:
    return np.ceil(-mean_seconds * np.log(quantile)).astype(np.int64) * SECOND_US


def _repeated(request: Ints, rank: Ints, items: int) -> NDArray[np.bool_]:
    """Rows whose item stands earlier in the same request."""
    repeated = np.ones(len(request), dtype=bool)
    repeated[np.unique(request * items + rank, return_index=True)[1]] = False
    return repeated
