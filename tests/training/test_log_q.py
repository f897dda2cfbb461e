"""The streaming estimate of item probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dedup_storage.dedup.mixing import mix64
from dedup_storage.errors import UsageError
from dedup_storage.training import StreamingLogQ
from dedup_storage.training.log_q import _mix


def test_distances_by_hand() -> None:
    estimator = StreamingLogQ(1 << 12, alpha=0.5)
    for ids in ([1, 1], [2], [1, 2], [3], [1]):
        estimator.update(torch.tensor(ids))
    # Item 1 at steps 1, 3, 5: distances 1, 2, 2; item 2 at 2, 3: 2, 1; item 3 at 4; item 4 never in 5 steps.
    expected = torch.tensor([1.75, 1.5, 4.0, 6.0])
    torch.testing.assert_close(estimator(torch.tensor([1, 2, 3, 4])), -expected.log())


def test_finds_the_probability_of_items_in_a_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    chance = torch.tensor([1.0, 0.5, 0.2, 0.1])
    estimator = StreamingLogQ(1 << 12, alpha=0.02)
    for _ in range(2_000):
        estimator.update(torch.nonzero(torch.rand(4, generator=rng) < chance).squeeze(1))
    torch.testing.assert_close(estimator(torch.arange(4)).exp(), chance, rtol=0.25, atol=0)


def test_negative_and_hashed_ids_and_empty_batches() -> None:
    estimator = StreamingLogQ(64)
    ids = torch.tensor([-(2**63), -1, 2**63 - 1])
    estimator.update(ids)
    estimator.update(ids[:0])
    assert estimator(ids).tolist() == [0, 0, 0]
    assert estimator(ids[:0]).shape == (0,)


def test_state_is_saved_with_the_model() -> None:
    estimator, other = StreamingLogQ(64), StreamingLogQ(64)
    estimator.update(torch.arange(3))
    other.load_state_dict(estimator.state_dict())
    assert torch.equal(other(torch.arange(5)), estimator(torch.arange(5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_keeps_its_distances(dtype: torch.dtype) -> None:
    log_q = StreamingLogQ(1 << 10)
    log_q.update(torch.tensor([3]))
    log_q.step.fill_(100_000)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), log_q).to(dtype)
    assert model[0].weight.dtype == dtype
    log_q.update(torch.tensor([3]))
    assert log_q(torch.tensor([3, 4])).tolist() == pytest.approx(
        [-math.log(1 + 0.05 * 99_999), -math.log(100_002)], rel=1e-6
    )


def test_a_collision_in_one_hash_is_outvoted() -> None:
    one, two = (StreamingLogQ(16, num_hashes=n) for n in (1, 2))
    for step in range(200):
        for estimator in (one, two):
            estimator.update(torch.tensor([step % 40]))
    ids = torch.arange(40)
    assert two(ids).sum() < one(ids).sum()


def test_sizes_are_checked() -> None:
    with pytest.raises(UsageError, match="sizes are out of range"):
        StreamingLogQ(alpha=0.0)


def plain_mix(value: int) -> int:
    """SplitMix64's finalizer on Python's integers."""
    x = (value + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_every_form_of_splitmix64_agrees() -> None:
    # The first outputs of the reference implementation from seed 0.
    assert plain_mix(0) == 0xE220A8397B1DCDAF
    assert plain_mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4
    values = np.array([0, 1, -1, 2**63 - 1, -(2**63), *np.random.default_rng(0).integers(-(2**63), 2**63, 1000)])
    expected = [plain_mix(int(v) % 2**64) for v in values]
    assert mix64(values).tolist() == expected
    assert mix64(values.view(np.uint64)).tolist() == expected
    assert _mix(torch.from_numpy(values), 0).numpy().view(np.uint64).tolist() == expected
    seeded = [plain_mix((int(v) + 3 * 0x9E3779B97F4A7C15) % 2**64) for v in values]
    assert _mix(torch.from_numpy(values), 3).numpy().view(np.uint64).tolist() == seeded
