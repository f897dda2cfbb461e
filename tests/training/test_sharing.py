"""What requests of one user may share of an encoded context: exactly that, and no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.attention import Windows
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts
from dedup_storage.training.sharing import unequal_windows

WIDTH = 8
OFFSETS = torch.tensor([0, 9, 9, 14])  # a user without events between two
COUNTS = torch.tensor([2, 1, 3, 1, 2, 1])
# Requests of the first and the last user; the last request sees nothing.
ANY = Windows(torch.tensor([0, 2, 4, 9, 11, 14]), torch.tensor([5, 9, 6, 14, 13, 14]))
FROM_THE_FIRST = Windows(torch.tensor([0, 0, 0, 9, 9, 9]), torch.tensor([5, 9, 1, 14, 12, 9]))
WHOLE = Windows(torch.tensor([0, 0, 0, 9, 9, 9]), torch.tensor([9, 9, 9, 14, 14, 14]))


def made(layers: int, causal: bool) -> tuple[DedupTransformer, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = DedupTransformer(WIDTH, heads=2, layers=layers, causal=causal, backend="blocks").double()
    tokens = torch.randn(14, WIDTH, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(int(COUNTS.sum()), WIDTH, dtype=torch.float64)
    return model, tokens, candidates, torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)


def by_itself(model: DedupTransformer, tokens: Tensor, candidates: Tensor, inverse: Tensor, windows: Windows) -> Tensor:
    """Each request's window cut out and encoded alone."""
    cut = [tokens[a:b] for a, b in zip(windows.starts.tolist(), windows.ends.tolist(), strict=True)]
    offsets = torch.tensor([0, *map(len, cut)]).cumsum(0)
    states: Tensor = model(candidates, model.encode(torch.cat(cut), offsets), inverse)
    return states


@pytest.mark.parametrize(
    ("layers", "causal", "windows"),
    [
        (1, True, ANY),
        (1, False, ANY),
        (3, True, FROM_THE_FIRST),
        (3, True, WHOLE),
        (2, False, WHOLE),
    ],
)
def test_what_may_be_shared_is_equal(layers: int, causal: bool, windows: Windows) -> None:
    model, tokens, candidates, inverse = made(layers, causal)
    results = []
    for shared in (True, False):
        if shared:
            states = model(candidates, model.shared(model.encode(tokens, OFFSETS), windows), inverse)
        else:
            states = by_itself(model, tokens, candidates, inverse, windows)
        (gradient,) = torch.autograd.grad((states**3).sum(), tokens)
        results.append((states, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("layers", "causal", "windows", "wrong"),
    [
        (2, True, ANY, 3),
        (2, False, FROM_THE_FIRST, 3),
        (1, True, Windows(torch.tensor([0, 5]), torch.tensor([9, 11])), 1),
    ],
)
def test_what_only_looks_shared_is_refused(layers: int, causal: bool, windows: Windows, wrong: int) -> None:
    model, tokens, _, _ = made(layers, causal)
    contexts = model.encode(tokens, OFFSETS)
    with pytest.raises(UsageError, match=f"{wrong} of {len(windows)} windows would read keys and values that other"):
        model.shared(contexts, windows)


@pytest.mark.parametrize(("causal", "windows"), [(True, ANY), (False, FROM_THE_FIRST)])
def test_the_refused_ones_do_differ_and_the_others_do_not(causal: bool, windows: Windows) -> None:
    model, tokens, candidates, inverse = made(2, causal)
    contexts = model.encode(tokens, OFFSETS)
    forced = model(candidates, EncodedContexts(contexts.layers, OFFSETS, windows), inverse)
    apart = (forced - by_itself(model, tokens, candidates, inverse, windows)).abs().amax(1)
    unequal = unequal_windows(windows, OFFSETS, layers=2, causal=causal)[inverse]
    assert (apart[unequal] > 1e-4).all()
    assert (apart[~unequal] < 1e-11).all()


def test_work_on_single_tokens_is_shared_by_any_windows() -> None:
    model, tokens, _, _ = made(1, True)
    rows = torch.cat([torch.arange(a, b) for a, b in zip(ANY.starts.tolist(), ANY.ends.tolist(), strict=True)])
    layer = model.layers[0]
    for once, again in zip(layer.split(tokens), layer.split(tokens[rows]), strict=True):  # type: ignore[operator]
        torch.testing.assert_close(once[rows], again, rtol=0, atol=1e-12)
