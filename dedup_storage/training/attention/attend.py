"""The one call: checks, and the choice of a backend."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from dedup_storage.choices import choice
from dedup_storage.errors import UsageError
from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.blocks import attend_in_blocks
from dedup_storage.training.attention.reference import attend_plainly
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["Backend", "attend"]


class Backend(StrEnum):
    """How attention is computed.

    ``auto``: ``varlen`` on CUDA where it can, else ``flex`` on CUDA, else ``blocks``. ``varlen``: FlashAttention over
    packed sequences, in half precision, without moments, bias or an own key. ``flex``: FlexAttention. ``blocks``:
    padded blocks, on every device. ``plain``: query by query.
    """

    AUTO = "auto"
    VARLEN = "varlen"
    FLEX = "flex"
    BLOCKS = "blocks"
    PLAIN = "plain"


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    windows: Windows,
    inverse_indices: Tensor,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    moments: Moments | None = None,
    bias: AgeBias | None = None,
    scale: float | None = None,
    backend: Backend | str = Backend.AUTO,
    check: bool = True,
) -> Tensor:
    """Let each candidate attend to its request's context.

    Formula: o_b = sum_k softmax_k(q_b . k / sqrt(D) + bias(age)) v_k over the keys k of request ``inverse_indices[b]``
    that b may see, and over b's own key, where it is given (scaled dot-product attention, Vaswani et al. 2017).

    Args:
        queries: (B, H, D) float32, bfloat16 or float64.
        keys, values: (T, H, D) of the same dtype, all requests' contexts one behind another.
        windows: Interval of the keys for each request.
        inverse_indices: (B,) int64 request of each query.
        own: Keys and values (B, H, D) of the candidates themselves, which each sees beside its context, as the last
            token of an ordinary sequence sees itself.
        moments: Times of keys and queries: later keys are hidden, and ``bias`` goes by the age.
        bias: Added to the scores; needs ``moments``.
        scale: In place of 1 / sqrt(D).
        backend: How.
        check: Whether windows and indices are checked, which waits for the device.

    Returns:
        (B, H, D); zeros for a query that sees no key.

    Raises:
        UsageError: shapes, windows or indices do not fit, or the backend cannot do it.
    """
    _check_shapes(queries, keys, values, windows, inverse_indices, own, moments, bias)
    if check:
        windows.check(len(keys), inverse_indices)
    wanted = choice(Backend, backend, "backend")
    packed = windows.packed and own is None and moments is None and bias is None
    half = queries.dtype in (torch.bfloat16, torch.float16)
    varlen = packed and half and queries.is_cuda
    if wanted is Backend.VARLEN and not varlen:
        raise UsageError(
            "the backend varlen cannot do this",
            expected="CUDA, half precision, windows of offsets, no own key, moments or bias",
            fix="Choose backend='auto'.",
        )
    weight = queries.shape[-1] ** -0.5 if scale is None else scale
    if wanted is Backend.AUTO:
        # The kernels of a GPU know no float64.
        flex = queries.is_cuda and queries.dtype != torch.float64
        wanted = Backend.VARLEN if varlen else Backend.FLEX if flex else Backend.BLOCKS
    if wanted is Backend.VARLEN:
        from dedup_storage.training.attention.varlen import attend_by_varlen

        return attend_by_varlen(queries, keys, values, windows, inverse_indices, scale=weight)
    if wanted is Backend.FLEX:
        # Compiling for a GPU is asked for by use alone.
        from dedup_storage.training.attention.flex import attend_by_flex

        function = attend_by_flex
    else:
        function = attend_in_blocks if wanted is Backend.BLOCKS else attend_plainly
    return function(queries, keys, values, windows, inverse_indices, own=own, moments=moments, bias=bias, scale=weight)


def _check_shapes(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    windows: Windows,
    inverse_indices: Tensor,
    own: tuple[Tensor, Tensor] | None,
    moments: Moments | None,
    bias: AgeBias | None,
) -> None:
    if queries.dim() != 3 or keys.dim() != 3 or keys.shape != values.shape or queries.shape[1:] != keys.shape[1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (queries, keys, values))
        raise UsageError("queries, keys and values do not fit", expected="(B, H, D), (T, H, D), (T, H, D)", got=shapes)
    if inverse_indices.shape != queries.shape[:1]:
        raise UsageError(
            "there is not one inverse index for each query", expected=str(len(queries)), got=str(len(inverse_indices))
        )
    if own is not None and any(t.shape != queries.shape for t in own):
        raise UsageError("own keys and values do not fit", expected=f"two of {tuple(queries.shape)}")
    if bias is not None and moments is None:
        raise UsageError("a bias by age needs moments", fix="Pass moments=Moments(events, at).")
    if moments is not None and (len(moments.events), len(moments.at)) != (len(keys), len(queries)):
        raise UsageError(
            "the moments do not fit",
            expected=f"{len(keys)} events and {len(queries)} queries",
            got=f"{len(moments.events)} and {len(moments.at)}",
        )
