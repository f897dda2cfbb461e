"""What is known of a synthetic log before a row of it is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dedup_storage.synth.items import zipf_shares
from dedup_storage.synth.params import SynthParams
from dedup_storage.synth.population import population, requests_between

__all__ = ["SynthStatistics", "statistics"]


@dataclass(frozen=True)
class SynthStatistics:
    """Counts are exact, expectations are of the random model given the users.

    Attributes:
        users: Number of users; each has at least one request.
        requests: R.
        impressions: B.
        dedup_factor: B / R.
        hot_users: Number of users with ``hot_factor`` times the requests.
        hot_request_share: Share of requests that are theirs.
        history_elements: Elements of one history list, summed over requests: what one copy per request holds.
        distinct_events: Events that any request sees: what no layout can go below.
        expected_label: Mean of all labels, late ones included.
        expected_late: Share of labels that land late.
        top_item_share: Probability that a history event is of the most popular item.
    """

    users: int
    requests: int
    impressions: int
    dedup_factor: float
    hot_users: int
    hot_request_share: float
    history_elements: int
    distinct_events: int
    expected_label: float
    expected_late: float
    top_item_share: float


def statistics(params: SynthParams) -> SynthStatistics:
    """The known statistics of a log; costs a pass over its requests, not its impressions."""
    people = population(params)
    requests = requests_between(params, 0, params.duration_us)
    impressions = int(requests.candidates.sum())
    hot = int(people.requests[people.hot].sum())
    known = np.where(people.cold, 0, params.sequence_length)
    seen = known[requests.user] + requests.ordinal * params.new_events_per_request
    newest = known + (people.requests - 1) * params.new_events_per_request
    weight = people.click_rate[requests.user] * requests.candidates
    has_history = bool(params.history) and params.sequence_length > 0
    return SynthStatistics(
        users=params.users,
        requests=len(requests),
        impressions=impressions,
        dedup_factor=impressions / len(requests),
        hot_users=int(people.hot.sum()),
        hot_request_share=hot / len(requests),
        history_elements=int(np.minimum(seen, params.sequence_length).sum()) if has_history else 0,
        distinct_events=int(newest.sum()) if has_history else 0,
        expected_label=float(weight.sum() / impressions),
        expected_late=params.late_labels,
        top_item_share=float(zipf_shares(params.items, params.item_exponent)[0]),
    )
