"""Diagnostics of request order against plain loops, and on a log whose answer is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dedup_storage.config import Settings
from dedup_storage.errors import UsageError
from dedup_storage.reader import Column, DedupDataset
from dedup_storage.training import design_effect, diagnose_order, intraclass_correlation
from dedup_storage.training.labels import pearson
from dedup_storage.training.masks import NULL_ID
from tests.reader.lake import Lake, make_log


@dataclass
class Batch:
    """The least that diagnostics need."""

    users: list[int]
    items: list[int]
    lengths: list[int]
    labels: list[float | None] | None = None
    label_columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.label_columns = () if self.labels is None else ("label",)

    @property
    def num_impressions(self) -> int:
        return len(self.items)

    @property
    def inverse_indices(self) -> Tensor:
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths, dtype=torch.int64))

    def user_ids(self, level: str = "request") -> Tensor:
        users = torch.tensor(self.users, dtype=torch.int64)
        return users[self.inverse_indices] if level == "impression" else users

    def item_ids(self) -> Tensor:
        return torch.tensor(self.items, dtype=torch.int64)

    def __getitem__(self, name: str) -> Column:
        assert self.labels is not None
        valid = torch.tensor([v is not None for v in self.labels])
        values = torch.tensor([v if v is not None else 0.0 for v in self.labels])
        return Column(values, valid=None if bool(valid.all()) else valid)


def random_batches(seed: int, labelled: bool, missing: float = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(3):
        lengths = rng.integers(1, 5, 5).tolist()
        total = sum(lengths)
        labels = [None if rng.random() < 0.2 else float(rng.integers(0, 2)) for _ in range(total)]
        made.append(
            Batch(
                rng.integers(-2, 3, 5).tolist(),
                [NULL_ID if rng.random() < missing else y for y in rng.integers(0, 8, total).tolist()],
                lengths,
                labels if labelled else None,
            )
        )
    return made


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_equal_plain_loops(seed: int, labelled: bool, missing: float) -> None:
    batches = random_batches(seed, labelled, missing)
    rows = [
        [
            (u, y, b.labels[i] if b.labels is not None else 1.0)
            for i, (u, y) in enumerate(zip(b.user_ids("impression").tolist(), b.items, strict=True))
        ]
        for b in batches
    ]
    known = {(u, y) for batch in rows for u, y, label in batch if label and y != NULL_ID}
    pairs = false = kept = false_kept = lonely = anchors = 0
    for batch in rows:
        for i, (u, y, label) in enumerate(batch):
            if not label:
                continue
            anchors += 1
            left = 0
            for j, (other_user, other_item, _) in enumerate(batch):
                if i == j:
                    continue
                pairs += 1
                false += (u, other_item) in known
                if u != other_user and y != other_item and other_item != NULL_ID:
                    left += 1
                    false_kept += (u, other_item) in known
            kept += left
            lonely += left == 0
    found = diagnose_order(batches).as_read
    assert found.false_negatives == pytest.approx(false / pairs)
    assert found.masked == pytest.approx(1 - kept / pairs)
    assert found.false_negatives_masked == pytest.approx(false_kept / kept)
    assert found.without_negatives == pytest.approx(lonely / anchors)
    assert found.users == pytest.approx(np.mean([len({u for u, _, _ in batch}) for batch in rows]))
    assert found.items == pytest.approx(np.mean([len({y for _, y, _ in batch} - {NULL_ID}) for batch in rows]))


def log_of_requests(shuffle: bool) -> list[Batch]:
    """40 users with 10 requests of 5 bought items, each out of the user's own ten items; labels alike in a request."""
    rng = np.random.default_rng(5)
    requests = [
        (u, (100 * u + rng.integers(0, 10, 5)).tolist(), float(rng.random())) for u in range(40) for _ in range(10)
    ]
    if shuffle:
        requests = [requests[i] for i in rng.permutation(len(requests))]
    return [
        Batch(
            [u for u, _, _ in part], [y for _, items, _ in part for y in items], [5] * 20,
            [0.5 + level + rng.normal() / 10 for _, _, level in part for _ in range(5)],
        )
        for part in (requests[i : i + 20] for i in range(0, 400, 20))
    ]  # fmt: skip


def test_what_request_order_does_and_what_mask_and_shuffle_undo() -> None:
    ordered, shuffled = diagnose_order(log_of_requests(False)), diagnose_order(log_of_requests(True))
    # Two users fill a batch in request order; half of what is taken for a negative the user bought.
    assert ordered.as_read.users == 2
    assert ordered.as_read.false_negatives > 0.45
    assert shuffled.as_read.users > 15
    assert shuffled.independent.false_negatives < shuffled.as_read.false_negatives < 0.1
    # Users share no items here, so that the mask removes every false negative, at the price of half of the pairs.
    assert ordered.as_read.false_negatives_masked == shuffled.as_read.false_negatives_masked == 0
    assert ordered.as_read.masked > 0.45
    assert shuffled.as_read.masked < 0.1
    # Labels of a request are alike: neighbours correlate unless impressions are drawn independently.
    assert ordered.request_correlation > 0.8
    assert shuffled.as_read.neighbour_correlation > 0.5
    assert abs(shuffled.independent.neighbour_correlation) < 0.1
    assert ordered.design_effect == pytest.approx(1 + 4 * ordered.request_correlation)
    assert (ordered.dedup_factor, ordered.as_read.batches, ordered.as_read.impressions) == (5, 20, 100)


def test_reads_no_more_than_it_is_told() -> None:
    taken = []

    def source() -> object:
        for batch in log_of_requests(False):
            taken.append(batch)
            yield batch

    assert diagnose_order(source(), max_batches=3).as_read.batches == 3  # type: ignore[arg-type]
    assert len(taken) == 3


def test_correlations_by_hand() -> None:
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0, math.nan])
    assert intraclass_correlation(labels, torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(1)
    assert design_effect(labels, torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(2)
    assert math.isnan(intraclass_correlation(labels, torch.arange(5)))
    assert math.isnan(intraclass_correlation(torch.ones(4), torch.tensor([0, 0, 1, 1])))
    assert pearson(labels[:4], torch.tensor([2.0, 2.0, 1.0, math.nan])) == pytest.approx(1)
    assert math.isnan(pearson(labels[:2], labels[:2]))
    # Ragged groups by the analysis of variance: MSB 9/4, MSW 1/2, n0 = 8/3.
    ragged = intraclass_correlation(torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, 2.0]), torch.tensor([0, 0, 0, 0, 1, 1]))
    slow = _anova([[1, 1, 2, 3], [3, 2]])
    assert ragged == pytest.approx(slow)


def _anova(groups: list[list[float]]) -> float:
    every = [v for g in groups for v in g]
    n, k, grand = len(every), len(groups), sum(every) / len(every)
    msb = sum(len(g) * (sum(g) / len(g) - grand) ** 2 for g in groups) / (k - 1)
    msw = sum((v - sum(g) / len(g)) ** 2 for g in groups for v in g) / (n - k)
    n0 = (n - sum(len(g) ** 2 for g in groups) / n) / (k - 1)
    return (msb - msw) / (msb + (n0 - 1) * msw)


def test_nothing_to_diagnose_is_said() -> None:
    with pytest.raises(UsageError, match="no batch holds an impression"):
        diagnose_order([Batch([], [], [])])
    with pytest.raises(UsageError, match="does not hold one number for each impression"):
        diagnose_order([Batch([1], [2, 3], [2], [1.0])])


@pytest.mark.parametrize("strings", ["dictionary", "hash"])
def test_takes_the_batches_of_a_reader(tmp_path: Path, strings: str) -> None:
    lake = Lake(Settings(warehouse=str(tmp_path / "warehouse")))
    log = make_log(users=20, string_users=True)
    lake.write("clicks", log)
    report = diagnose_order(DedupDataset("clicks", lake.settings, batch_size=50, strings=strings))
    assert report.dedup_factor == pytest.approx(log.impressions.num_rows / log.requests.num_rows)
    assert report.as_read.impressions * report.as_read.batches == pytest.approx(log.impressions.num_rows)
    assert report.as_read.users < 20
