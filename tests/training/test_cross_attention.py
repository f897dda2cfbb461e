"""The deduplicated transformer equals the ordinary one over [context, candidate], output and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts

WIDTH = 16
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.25}


def inputs(lengths: list[int], counts: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    inverse = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    tokens = torch.randn(int(offsets[-1]), WIDTH, generator=random, dtype=torch.float64)
    candidates = torch.randn(len(inverse), WIDTH, generator=random, dtype=torch.float64)
    return tokens.to(dtype).requires_grad_(), offsets, candidates.to(dtype).requires_grad_(), inverse


def plain_transformer(model: DedupTransformer, sequence: Tensor) -> Tensor:
    """The last token's state of one sequence, written out: no context token sees the last one."""
    rows, n = sequence, len(sequence)
    visible = torch.tril(torch.ones(n, n, dtype=torch.bool)) if model.causal else torch.ones(n, n, dtype=torch.bool)
    visible[:-1, -1] = False
    for layer in model.layers:
        q, k, v = layer.project(layer.norm_attention(rows)).view(n, 3, layer.heads, -1).unbind(1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(~visible, float("-inf")), 2)
        rows = rows + layer.merge(torch.einsum("hij,jhd->ihd", weights, v).reshape(n, -1))
        rows = rows + layer.hidden(layer.norm_hidden(rows))
    return rows[-1]


def grads(model: DedupTransformer, out: Tensor, *leaves: Tensor) -> list[Tensor]:
    for leaf in (*leaves, *model.parameters()):
        leaf.grad = None
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [(t.grad if t.grad is not None else torch.zeros_like(t)).clone() for t in (*leaves, *model.parameters())]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("layers", "heads", "lengths", "counts"),
    [
        (1, 1, [4], [3]),
        (2, 2, [3, 0, 9, 1], [2, 3, 1, 4]),
        (3, 4, [40, 2, 2, 0, 17], [1, 5, 0, 2, 3]),
        (4, 2, [0, 0], [2, 1]),
    ],
)
def test_equals_the_ordinary_transformer(
    layers: int, heads: int, lengths: list[int], counts: list[int], causal: bool
) -> None:
    torch.manual_seed(0)
    model = DedupTransformer(WIDTH, heads=heads, layers=layers, causal=causal, backend="blocks").to(torch.float64)
    tokens, offsets, candidates, inverse = inputs(lengths, counts, torch.float64)
    deduplicated = model(candidates, model.encode(tokens, offsets), inverse)
    first = grads(model, deduplicated, tokens, candidates)
    bounds = offsets.tolist()
    rows = [
        plain_transformer(model, torch.cat([tokens[bounds[r] : bounds[r + 1]], candidates[b : b + 1]]))
        for b, r in enumerate(inverse.tolist())
    ]
    torch.testing.assert_close(deduplicated, torch.stack(rows), rtol=0, atol=TOLERANCES[torch.float64])
    for mine, other in zip(first, grads(model, torch.stack(rows), tokens, candidates), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=TOLERANCES[torch.float64])


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
def test_equals_its_expanded_form(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = DedupTransformer(WIDTH, heads=2, layers=2, backend="blocks").to(dtype)
    tokens, offsets, candidates, inverse = inputs([12, 0, 5], [3, 2, 4], dtype)
    deduplicated = model(candidates, model.encode(tokens, offsets), inverse)
    expanded = model.expanded(tokens, offsets, candidates, inverse)
    torch.testing.assert_close(deduplicated, expanded, rtol=0, atol=TOLERANCES[dtype])
    for mine, other in zip(
        grads(model, deduplicated, tokens, candidates),
        grads(model, model.expanded(tokens, offsets, candidates, inverse), tokens, candidates),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCES[dtype] * max(1.0, float(other.abs().max())))


def test_memory_of_contexts_grows_with_requests_alone() -> None:
    model = DedupTransformer(WIDTH, heads=2, layers=3)
    for counts in ([1, 1], [50, 50]):
        tokens, offsets, candidates, inverse = inputs([7, 5], counts, torch.float32)
        contexts = model.encode(tokens, offsets)
        assert contexts.num_bytes == 3 * 2 * 12 * WIDTH * 4
        assert model(candidates, contexts, inverse).shape == (sum(counts), WIDTH)


def test_refused() -> None:
    with pytest.raises(UsageError, match="no multiple of the heads"):
        DedupTransformer(10, heads=3, layers=1)
    model = DedupTransformer(WIDTH, heads=2, layers=1)
    with pytest.raises(UsageError, match="the offsets do not fit the tokens"):
        model.encode(torch.zeros(5, WIDTH), torch.tensor([0, 4]))
    for offsets in ([2, 5], [0, 4, 3, 5], []):
        with pytest.raises(UsageError, match="ascending from 0 to 5"):
            model.encode(torch.zeros(5, WIDTH), torch.tensor(offsets, dtype=torch.int64))
    contexts = EncodedContexts(((torch.zeros(4, 2, 8), torch.zeros(4, 2, 8)),), torch.tensor([0, 4]))
    with pytest.raises(UsageError, match="inverse indices name no request"):
        model(torch.zeros(1, WIDTH), contexts, torch.tensor([1]))
