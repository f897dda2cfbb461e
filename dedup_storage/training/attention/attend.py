"""The one call: checks, and the choice of a backend; and the same for several layers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dedup_storage.choices import choice
from dedup_storage.errors import UsageError
from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.blocks import PlannedBlock, attend_in_blocks, plan_blocks
from dedup_storage.training.attention.reference import attend_plainly
from dedup_storage.training.attention.windows import Moments, Windows

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from dedup_storage.training.attention.varlen import PlannedSequences

__all__ = ["Attention", "Backend", "attend"]


class Backend(StrEnum):
    """How attention is computed.

    ``auto``: ``varlen`` on CUDA where it can, else ``flex`` on CUDA, else ``blocks``; these for float64 everywhere.
    ``varlen``: FlashAttention over packed sequences, in half precision, without moments, bias or an own key. ``flex``:
    FlexAttention. ``blocks``: padded blocks, on every device. ``plain``: query by query.
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
    attention = Attention(windows, inverse_indices, len(keys), moments=moments, backend=backend, check=check)
    return attention(queries, keys, values, own=own, bias=bias, scale=scale)


class Attention:
    """``attend`` for several layers over the same windows: what depends on these and on the indices is computed once.

    Args:
        windows, inverse_indices, moments, backend, check: As of ``attend``.
        keys: T.

    Raises:
        UsageError: windows or indices do not fit.

    Example:
        >>> attention = Attention(Windows.of_offsets(offsets), batch.inverse_indices, len(tokens))
        >>> for layer in layers:
        ...     rows = layer.finish(rows, attention(*layer.split(rows, tokens)))
    """

    def __init__(
        self,
        windows: Windows,
        inverse_indices: Tensor,
        keys: int,
        *,
        moments: Moments | None = None,
        backend: Backend | str = Backend.AUTO,
        check: bool = True,
    ) -> None:
        if check:
            windows.check(keys, inverse_indices)
        self.windows, self.inverse_indices, self.keys, self.moments = windows, inverse_indices, keys, moments
        self.backend = choice(Backend, backend, "backend")
        self._masks: dict[bool, BlockMask | None] = {}
        self._blocks: dict[int, list[PlannedBlock]] = {}
        self._sequences: PlannedSequences | None = None

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        own: tuple[Tensor, Tensor] | None = None,
        bias: AgeBias | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attend in one layer. Arguments and result as of ``attend``.

        Raises:
            UsageError: shapes do not fit, or the backend cannot do it.
        """
        self._check_shapes(queries, keys, values, own, bias)
        weight = queries.shape[-1] ** -0.5 if scale is None else scale
        wanted = self._chosen(queries, plain=own is None and bias is None)
        if wanted is Backend.VARLEN:
            from dedup_storage.training.attention.varlen import attend_by_varlen, plan_sequences

            if self._sequences is None:
                self._sequences = plan_sequences(self.windows, self.inverse_indices)
            return attend_by_varlen(queries, keys, values, self._sequences, scale=weight)
        moments = self.moments
        if wanted is Backend.FLEX:
            # Compiling for a GPU is asked for by use alone.
            from dedup_storage.training.attention.flex import attend_by_flex

            mask = self._mask()
            return attend_by_flex(queries, keys, values, mask, own=own, moments=moments, bias=bias, scale=weight)
        if wanted is Backend.BLOCKS:
            blocks = self._planned(queries.shape[1])
            return attend_in_blocks(queries, keys, values, blocks, own=own, moments=moments, bias=bias, scale=weight)
        return attend_plainly(
            queries, keys, values, self.windows, self.inverse_indices,
            own=own, moments=moments, bias=bias, scale=weight,
        )  # fmt: skip

    def _chosen(self, queries: Tensor, *, plain: bool) -> Backend:
        packed = self.windows.packed and plain and self.moments is None
        half = queries.dtype in (torch.bfloat16, torch.float16)
        varlen = packed and half and queries.is_cuda
        if self.backend is Backend.VARLEN and not varlen:
            raise UsageError(
                "the backend varlen cannot do this",
                expected="CUDA, half precision, windows of offsets, no own key, moments or bias",
                fix="Choose backend='auto'.",
            )
        if self.backend is not Backend.AUTO:
            return self.backend
        # The kernels of a GPU know no float64.
        flex = queries.is_cuda and queries.dtype != torch.float64
        return Backend.VARLEN if varlen else Backend.FLEX if flex else Backend.BLOCKS

    def _mask(self) -> BlockMask | None:
        from dedup_storage.training.attention.flex import window_mask

        backward = torch.is_grad_enabled()
        if backward not in self._masks:
            there = self.keys and len(self.inverse_indices)
            self._masks[backward] = (
                window_mask(self.windows, self.inverse_indices, self.keys, self.moments, backward=backward)
                if there
                else None
            )
        return self._masks[backward]

    def _planned(self, heads: int) -> list[PlannedBlock]:
        if heads not in self._blocks:
            self._blocks[heads] = plan_blocks(self.windows, self.inverse_indices, heads) if self.keys else []
        return self._blocks[heads]

    def _check_shapes(
        self, queries: Tensor, keys: Tensor, values: Tensor, own: tuple[Tensor, Tensor] | None, bias: AgeBias | None
    ) -> None:
        fitting = queries.dim() == keys.dim() == 3 and keys.shape == values.shape
        if not fitting or queries.shape[1:] != keys.shape[1:]:
            shapes = ", ".join(str(tuple(t.shape)) for t in (queries, keys, values))
            raise UsageError(
                "queries, keys and values do not fit", expected="(B, H, D), (T, H, D), (T, H, D)", got=shapes
            )
        if len(keys) != self.keys:
            raise UsageError("the keys are not those of the windows", expected=str(self.keys), got=str(len(keys)))
        if self.inverse_indices.shape != queries.shape[:1]:
            raise UsageError(
                "there is not one inverse index for each query",
                expected=str(len(queries)),
                got=str(len(self.inverse_indices)),
            )
        if own is not None and any(t.shape != queries.shape for t in own):
            raise UsageError("own keys and values do not fit", expected=f"two of {tuple(queries.shape)}")
        moments = self.moments
        if bias is not None and moments is None:
            raise UsageError("a bias by age needs moments", fix="Pass moments=Moments(events, at).")
        if moments is not None and (len(moments.events), len(moments.at)) != (len(keys), len(queries)):
            raise UsageError(
                "the moments do not fit",
                expected=f"{len(keys)} events and {len(queries)} queries",
                got=f"{len(moments.events)} and {len(moments.at)}",
            )
        if moments is not None and {moments.events.dtype, moments.at.dtype} != {torch.int64}:
            raise UsageError(
                "moments are whole numbers of 64 bits",
                expected="int64 events and queries in one unit",
                got=f"{moments.events.dtype} and {moments.at.dtype}",
                fix="Times as the batch delivers them are int64 (microseconds); convert others with .to(torch.int64).",
            )
