"""What tests on a GPU compare: a result on the device, and the same on the CPU.

``DEDUP_TEST_DEVICE=cpu`` runs these tests without a GPU, the CPU against itself: that the tests are sound, no more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dedup_storage.reader import Column, DedupBatch, SharedLists

DEVICE = os.environ.get("DEDUP_TEST_DEVICE", "cuda")
needs_device = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")


def same(found: Any, wanted: Any, tolerance: float = 0.0) -> None:
    """Refuse what differs; tensors of ``found`` have to lie on the device, those of ``wanted`` on the CPU."""
    assert type(found) is type(wanted), (type(found), type(wanted))
    if isinstance(wanted, Tensor):
        _same_tensors(found, wanted, tolerance)
    elif isinstance(wanted, Column):
        assert found.vocabulary == wanted.vocabulary
        same(found.tensors(), wanted.tensors(), tolerance)
    elif isinstance(wanted, SharedLists):
        same([found.values, found.starts, found.ends], [wanted.values, wanted.starts, wanted.ends])
        same(found.lists(), wanted.lists())
    elif isinstance(wanted, DedupBatch):
        assert (found.sizes, found.grains) == (wanted.sizes, wanted.grains)
        same([found.inverse_indices, found.lengths], [wanted.inverse_indices, wanted.lengths])
        same({name: found[name] for name in found}, {name: wanted[name] for name in wanted}, tolerance)
    elif isinstance(wanted, Mapping):
        assert list(found) == list(wanted)
        same(list(found.values()), list(wanted.values()), tolerance)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for left, right in zip(found, wanted, strict=True):
            same(left, right, tolerance)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=tolerance, nan_ok=True)
    else:
        assert found == wanted


def _same_tensors(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.device.type == torch.device(DEVICE).type
    assert found.dtype == wanted.dtype
    if wanted.is_nested:
        same(list(found.unbind()), list(wanted.unbind()), tolerance)
        return
    assert found.shape == wanted.shape
    if wanted.is_floating_point():
        torch.testing.assert_close(found.detach().cpu(), wanted.detach(), rtol=0, atol=tolerance, equal_nan=True)
    else:
        assert found.tolist() == wanted.tolist()
