"""User-masked InfoNCE against the formula in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dedup_storage.errors import InverseIndexError, UsageError
from dedup_storage.training import negative_mask, user_masked_info_nce
from tests.strategies import examples
from tests.training.toy import Toy, TwoTower, gradients, train_step


def slow_info_nce(
    queries: Tensor, items: Tensor, users: list[str], ids: list[int], log_q: list[float], positives: list[bool],
    temperature: float,
) -> tuple[Tensor, int]:  # fmt: skip
    """The formula, impression by impression; queries (B, d)."""
    total, rows, lonely = 0 * (queries.sum() + items.sum()), 0, 0
    for i in range(len(ids)):
        if not positives[i]:
            continue
        s_ii = queries[i] @ items[i] / temperature - log_q[i]
        denominator, negatives = s_ii.exp(), 0
        for j in range(len(ids)):
            if users[i] != users[j] and ids[i] != ids[j]:
                denominator = denominator + (queries[i] @ items[j] / temperature - log_q[j]).exp()
                negatives += 1
        total, rows, lonely = total - (s_ii.exp() / denominator).log(), rows + 1, lonely + (negatives == 0)
    return total / max(rows, 1), lonely


def users_of(toy: Toy) -> list[str]:
    return [toy.users[r] for r in toy.inverse.tolist()]


@given(seed=st.integers(0, 10_000), requests=st.integers(2, 8))
@examples(20)
def test_equals_the_formula_and_its_gradients(seed: int, requests: int) -> None:
    toy = Toy.make(requests, seed)
    fast, slow = TwoTower(), TwoTower()
    facts = train_step(fast, toy)
    queries, items = slow(toy.features, toy.lengths, toy.vectors)
    loss, lonely = slow_info_nce(
        queries[toy.inverse], items, users_of(toy), toy.items.tolist(), toy.log_q.tolist(), toy.positives.tolist(), 0.5
    )
    loss.backward()  # type: ignore[no-untyped-call]
    for name in ("loss", "mean"):
        assert facts[name] == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)
    assert (facts["rows"], facts["without"]) == (int(toy.positives.sum()), lonely)
    for name, values in gradients(slow).items():
        assert gradients(fast)[name] == pytest.approx(values, rel=1e-9, abs=1e-12), name


def test_request_rows_and_expanded_rows_agree() -> None:
    toy = Toy.make()
    results = []
    for expanded in (False, True):
        q, v = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), toy.vectors[:, :4].float()
        q.requires_grad_()
        inverse = None if expanded else toy.inverse
        queries = q[toy.inverse] if expanded else q
        result = user_masked_info_nce(queries, v, toy.user_ids(), toy.items, inverse_indices=inverse)
        result.loss.backward()  # type: ignore[no-untyped-call]
        results.append((result.loss.detach(), q.grad))
    torch.testing.assert_close(results[0], results[1])


def test_the_same_user_in_two_requests_is_masked() -> None:
    """The mistake that inverse indices would make: requests 0 and 1 are of one user."""
    queries, items = torch.eye(3), torch.eye(3)
    users, ids = torch.tensor([5, 5, 9]), torch.tensor([1, 2, 3])
    loss = user_masked_info_nce(queries, items, users, ids, inverse_indices=torch.arange(3)).loss
    own, other = math.e, 1.0
    expected = [-math.log(own / (own + other))] * 2 + [-math.log(own / (own + 2 * other))]
    assert loss.item() == pytest.approx(sum(expected) / 3)


def test_rows_without_negatives_cost_nothing_and_are_counted() -> None:
    queries = torch.randn(1, 2, requires_grad=True)
    result = user_masked_info_nce(
        queries, torch.randn(3, 2), torch.full((3,), 7), torch.arange(3), inverse_indices=torch.zeros(3).long()
    )
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert (result.loss.item(), int(result.rows), int(result.without_negatives)) == (0, 3, 3)
    assert queries.grad is not None
    assert not queries.grad.any()


@pytest.mark.parametrize("rows", [0, 3], ids=["empty batch", "no positives"])
def test_nothing_to_learn_from_gives_zero_and_zero_gradients(rows: int) -> None:
    queries = torch.randn(rows, 2, requires_grad=True)
    result = user_masked_info_nce(
        queries, torch.randn(rows, 2), torch.arange(rows), torch.arange(rows), positives=torch.zeros(rows).bool()
    )
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert (result.loss.item(), int(result.rows)) == (0, 0)
    assert queries.grad is not None
    assert not queries.grad.any()


def test_a_popular_item_is_pushed_away_less() -> None:
    queries, items = torch.zeros(2, 2), torch.zeros(2, 2)
    plain = user_masked_info_nce(queries, items, torch.arange(2), torch.arange(2)).loss.item()
    log_q = torch.tensor([math.log(0.9), math.log(0.1)])
    corrected = user_masked_info_nce(queries, items, torch.arange(2), torch.arange(2), log_q=log_q).loss.item()
    assert plain == pytest.approx(math.log(2))
    assert corrected == pytest.approx((-math.log(0.1) - math.log(0.9)) / 2)


def test_half_precision_vectors_are_masked_in_float32() -> None:
    toy = Toy.make()
    q, v = torch.randn(12, 4), torch.randn(len(toy.items), 4)
    log_q = torch.full((len(toy.items),), -80_000.0)
    half = user_masked_info_nce(
        q.bfloat16(), v.bfloat16(), toy.user_ids(), toy.items, inverse_indices=toy.inverse, log_q=log_q
    )
    assert half.loss.dtype == torch.float32
    exact = user_masked_info_nce(q, v, toy.user_ids(), toy.items, inverse_indices=toy.inverse)
    assert half.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)


def test_mask_by_the_formula() -> None:
    toy = Toy.make()
    users, ids = users_of(toy), toy.items.tolist()
    places = torch.arange(len(ids))
    mask = negative_mask(toy.user_ids(), toy.items, toy.user_ids(), toy.items, places)
    slow = [[i == j or (users[i] != users[j] and ids[i] != ids[j]) for j in range(len(ids))] for i in range(len(ids))]
    assert mask.tolist() == slow


def test_wrong_arguments_are_named() -> None:
    q, v, ids = torch.randn(2, 3), torch.randn(4, 3), torch.arange(4)
    with pytest.raises(InverseIndexError, match="not one query for each item vector"):
        user_masked_info_nce(q, v, ids, ids)
    with pytest.raises(UsageError, match=r"user_ids does not hold one value for each item vector; expected \(4,\)"):
        user_masked_info_nce(v, v, ids[:2], ids)
    with pytest.raises(UsageError, match="item_ids are not integers"):
        user_masked_info_nce(v, v, ids, ids.float())
    with pytest.raises(UsageError, match="positives is not a mask"):
        user_masked_info_nce(v, v, ids, ids, positives=ids)
    with pytest.raises(UsageError, match="vectors of one width"):
        user_masked_info_nce(v, v[:, :2], ids, ids)
    with pytest.raises(UsageError, match="temperature is not positive"):
        user_masked_info_nce(v, v, ids, ids, temperature=0.0)
