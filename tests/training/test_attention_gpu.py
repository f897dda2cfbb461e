"""On a GPU: FlexAttention and FlashAttention against the plain form, outputs and gradients; skipped elsewhere."""

from __future__ import annotations

import pytest
import torch

from dedup_storage.training.cross_attention import DedupTransformer
from tests.training.test_attention import CASES, close, packed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")
TOLERANCES = {torch.float32: 5e-3, torch.bfloat16: 6e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_flex_on_cuda(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]()
    close(case.to("cuda").run("flex", dtype), case.run("plain", torch.float64), TOLERANCES[dtype])


@pytest.mark.parametrize("lengths", [[3, 0, 17, 1, 8], [300, 1, 2, 290]])
def test_varlen_on_cuda(lengths: list[int]) -> None:
    case = packed(lengths, [2, 3, 1, 0, 4][: len(lengths)])
    close(case.to("cuda").run("varlen", torch.bfloat16), case.run("plain", torch.float64), TOLERANCES[torch.bfloat16])


def test_the_transformer_on_cuda() -> None:
    torch.manual_seed(0)
    model = DedupTransformer(64, heads=4, layers=2).cuda()
    offsets = torch.tensor([0, 70, 70, 200], device="cuda")
    inverse = torch.tensor([0, 0, 1, 2, 2, 2], device="cuda")
    tokens, candidates = torch.randn(200, 64, device="cuda"), torch.randn(6, 64, device="cuda")
    leaves = [tokens.requires_grad_(), candidates.requires_grad_()]
    results = []
    for out in (
        model(candidates, model.encode(tokens, offsets), inverse),
        model.expanded(tokens, offsets, candidates, inverse),
    ):
        results.append([out.detach(), *torch.autograd.grad((out**2).mean(), leaves)])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=2e-2)
    with torch.no_grad():
        scored = model(candidates, model.encode(tokens, offsets), inverse)
    torch.testing.assert_close(scored, results[0][0], rtol=0, atol=2e-2)
