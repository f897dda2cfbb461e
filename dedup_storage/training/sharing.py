"""What requests of one user may share of an encoded context, and what they may not (docs/sharing.md).

A user's events are encoded once, and each request reads an interval of them. Whether that equals encoding the interval
by itself depends on what a token's keys and values depend on:

- of the first layer, on the token alone: any interval;
- of a later layer behind causal self-attention, on the tokens before it: intervals from the first token on;
- of a later layer behind self-attention in both directions, on all tokens: the whole context.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.attention import Windows

__all__ = ["check_shared", "unequal_windows"]


def unequal_windows(windows: Windows, offsets: Tensor, *, layers: int, causal: bool) -> Tensor:
    """Which requests would read other keys and values than those of their own window encoded by itself.

    Args:
        windows: The interval of the flat tokens that each of R requests sees.
        offsets: (U + 1,) int64: user u's events are the tokens offsets[u] to offsets[u + 1] - 1.
        layers: Layers whose keys and values candidates read; their first ones are made of the tokens as given.
        causal: Whether a token sees only itself and those before it.

    Returns:
        (R,) bool. A window that holds tokens of several users is always unequal, an empty one never.
    """
    if not len(offsets) or not len(windows):
        return torch.zeros(len(windows), dtype=torch.bool, device=offsets.device)
    # Empty users share their place with the next one: the last that begins there has the token.
    owners = torch.searchsorted(offsets, windows.starts.contiguous(), right=True) - 1
    owners = owners.clamp(0, max(len(offsets) - 2, 0))
    begins, ends = offsets[owners], offsets[(owners + 1).clamp(max=len(offsets) - 1)]
    unequal = windows.ends > ends
    if layers > 1:
        unequal = unequal | (windows.starts != begins)
    if layers > 1 and not causal:
        unequal = unequal | (windows.ends != ends)
    return unequal & (windows.lengths > 0)


def check_shared(windows: Windows, offsets: Tensor, *, layers: int, causal: bool) -> None:
    """Refuse what would only look like the encoding of each request's own window.

    Args: as ``unequal_windows``.

    Raises:
        UsageError: windows begin elsewhere than their context, or end elsewhere where tokens see later ones.
    """
    wrong = int(unequal_windows(windows, offsets, layers=layers, causal=causal).sum())
    if wrong:
        rule = "within one context" if layers <= 1 else "from a context's first token" if causal else "a whole context"
        raise UsageError(
            f"{wrong} of {len(windows)} windows would read keys and values that other events had a part in",
            expected=f"windows {rule}, with {layers} layers{' of causal self-attention' if causal else ''}",
            fix="Encode these requests' windows by themselves, or read the context through one layer alone.",
        )
