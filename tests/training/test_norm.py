"""Count-weighted batch norm is BatchNorm over the expanded rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dedup_storage.errors import UsageError
from dedup_storage.training import CountWeightedBatchNorm1d, count_weighted_moments
from tests.strategies import examples


def batches(seed: int, number: int, length: int | None = None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    tail = () if length is None else (length,)
    return [
        (
            torch.randn(6 + i, 3, *tail, generator=rng, dtype=torch.float64) * 4 + 100,
            torch.randint(0 if i else 1, 9, (6 + i,), generator=rng),
        )
        for i in range(number)
    ]


@given(
    seed=st.integers(0, 10_000),
    momentum=st.sampled_from([0.1, 0.7, None]),
    affine=st.booleans(),
    track=st.booleans(),
    length=st.sampled_from([None, 1, 4]),
)
@examples(15)
def test_equals_batch_norm_of_expanded_rows(
    seed: int, momentum: float | None, affine: bool, track: bool, length: int | None
) -> None:
    options: dict[str, Any] = {"momentum": momentum, "affine": affine, "track_running_stats": track, "eps": 1e-3}
    ours, plain = CountWeightedBatchNorm1d(3, **options).double(), nn.BatchNorm1d(3, **options).double()
    if affine:
        with torch.no_grad():
            plain.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
            plain.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    ours.load_state_dict(plain.state_dict())
    for training in (True, False):
        ours.train(training), plain.train(training)
        for rows, counts in batches(seed, 3, length):
            left, right = rows.clone().requires_grad_(), rows.clone().requires_grad_()
            expanded = plain(right.repeat_interleave(counts, 0))
            made = ours(left, counts)
            torch.testing.assert_close(made.repeat_interleave(counts, 0), expanded, rtol=1e-9, atol=1e-9)
            (made**3 * counts.reshape(-1, *[1] * (rows.dim() - 1))).sum().backward()
            (expanded**3).sum().backward()
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_plain_batch_norm_over_request_rows_is_something_else() -> None:
    rows, counts = batches(0, 1)[0]
    unweighted = nn.BatchNorm1d(3).double()(rows)
    assert not torch.allclose(unweighted, CountWeightedBatchNorm1d(3).double()(rows, counts), atol=0.05)


def test_float32_with_a_large_mean_keeps_its_digits() -> None:
    rows, counts = batches(1, 1)[0]
    far = (rows + 1e4).float()
    made = CountWeightedBatchNorm1d(3)(far, counts).repeat_interleave(counts, 0)
    exact = nn.BatchNorm1d(3).double()(far.double().repeat_interleave(counts, 0))
    torch.testing.assert_close(made.double(), exact, rtol=1e-3, atol=1e-3)


def test_half_precision_goes_in_and_out() -> None:
    rows, counts = batches(2, 1)[0]
    norm = CountWeightedBatchNorm1d(3)
    made = norm((rows - 100).bfloat16(), counts)
    assert made.dtype == torch.bfloat16
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize("counts", [[], [0, 0], [1]])
def test_a_batch_of_one_impression_or_none_leaves_the_statistics_alone(counts: list[int]) -> None:
    norm = CountWeightedBatchNorm1d(2)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    rows = torch.randn(len(counts), 2, requires_grad=True)
    made = norm(rows, torch.tensor(counts, dtype=torch.int64))
    made.sum().backward()
    assert made.isfinite().all()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    torch.testing.assert_close(dict(norm.state_dict()), before)


def test_moments_are_those_of_expanded_rows() -> None:
    rows, counts = batches(3, 1)[0]
    mean, variance, number = count_weighted_moments(rows, counts)
    expanded = rows.repeat_interleave(counts, 0)
    torch.testing.assert_close(mean, expanded.mean(0))
    torch.testing.assert_close(variance, expanded.var(0, unbiased=False))
    assert int(number) == len(expanded)


def test_converting_to_sync_batch_norm_leaves_it_alone() -> None:
    model = nn.ModuleList([CountWeightedBatchNorm1d(3), nn.BatchNorm1d(3)])
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(m) for m in converted] == [CountWeightedBatchNorm1d, nn.SyncBatchNorm]  # type: ignore[attr-defined]


def test_wrong_shapes_are_named() -> None:
    norm = CountWeightedBatchNorm1d(3)
    with pytest.raises(UsageError, match="not one count for each row"):
        norm(torch.randn(4, 3), torch.ones(5))
    with pytest.raises(UsageError, match="rows do not fit"):
        norm(torch.randn(4, 2), torch.ones(4))
