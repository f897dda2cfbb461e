"""The GPU benchmark compares like with like, and says in one line that it did not run without CUDA."""

from __future__ import annotations

import pytest
import torch

from benchmarks import reader_gpu


def test_both_steps_compute_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    model = reader_gpu.TwoTowers()
    batch = reader_gpu.batch_of(3, 16)
    loss = reader_gpu.dedup_step(model, batch, "cpu")()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    flat = reader_gpu.flat_step(model, reader_gpu.expanded(batch), "cpu")()
    torch.testing.assert_close(loss, flat)
    for mine, theirs in zip(gradients, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to run on")
def test_without_cuda_it_says_in_one_line_that_it_did_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    reader_gpu.main([])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "not run" in out
