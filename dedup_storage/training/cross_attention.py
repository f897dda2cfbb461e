"""A transformer whose context side runs once per request, in the manner of a deduplicated cross-attention transformer.

In an ordinary transformer over [context, candidate] in which no context token sees the candidate, the context's states
are the same for each candidate of a request. So its layers run on R contexts, and the candidates read the keys and
values of each layer: the same outputs and gradients for B / R times less work on the context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dedup_storage.errors import UsageError
from dedup_storage.training.attention import Attention, Windows
from dedup_storage.training.attention.attend import Backend
from dedup_storage.training.attention.contexts import attend_within, plan_contexts
from dedup_storage.training.sharing import check_shared

__all__ = ["DedupTransformer", "EncodedContexts"]


@dataclass(frozen=True)
class EncodedContexts:
    """What candidates read of R contexts.

    Attributes:
        layers: For each layer the keys and values, (T, H, D) each.
        offsets: (R + 1,) int64: context r has the rows offsets[r] to offsets[r + 1] - 1.
        windows: Which rows each request reads where it is not one context for each; see ``DedupTransformer.shared``.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    offsets: Tensor
    windows: Windows | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the keys and values; in proportion to the tokens of R contexts."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


class _Layer(nn.Module):
    """One pre-norm layer, its weights shared by context tokens and candidates as an ordinary transformer's are."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (n, H, D) of rows (n, width)."""
        whole = self.project(self.norm_attention(rows))
        queries, keys, values = whole.view(len(rows), 3, self.heads, rows.shape[1] // self.heads).unbind(1)
        return queries, keys, values

    def finish(self, rows: Tensor, attended: Tensor) -> Tensor:
        """The residual sums after the attention."""
        rows = rows + self.merge(attended.reshape(rows.shape))
        out: Tensor = rows + self.hidden(self.norm_hidden(rows))
        return out


def _cover(offsets: Tensor, tokens: int) -> bool:
    """Whether each token lies in one context. Waits for the device once."""
    if offsets.dim() != 1 or not len(offsets):
        return False
    falls = (offsets[1:] < offsets[:-1]).sum()
    first, last, wrong = torch.stack([offsets[0], offsets[-1], falls]).tolist()
    return (first, last, wrong) == (0, tokens, 0)


class DedupTransformer(nn.Module):
    """Layers over contexts of R requests, and over B candidates that read them.

    Args:
        width: W, a multiple of ``heads``.
        heads: H.
        layers: Number of layers.
        hidden: Width of the feed-forward layers; four times ``width`` by default.
        causal: Whether a context token sees only itself and those before it.
        backend: Of the candidates' attention, see ``attend``.

    Example:
        >>> model = DedupTransformer(64, heads=4, layers=2)
        >>> contexts = model.encode(tokens, batch["history"].offsets)       # tokens (T, 64): once per request
        >>> scores = head(model(candidates, contexts, batch.inverse_indices))  # candidates (B, 64)
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        layers: int,
        hidden: int | None = None,
        causal: bool = True,
        backend: Backend | str = Backend.AUTO,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UsageError("the width is no multiple of the heads", got=f"{width} and {heads}")
        self.causal, self.backend, self.heads = causal, backend, heads
        self.layers = nn.ModuleList(_Layer(width, heads, hidden or 4 * width) for _ in range(layers))

    @property
    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    def encode(self, tokens: Tensor, offsets: Tensor) -> EncodedContexts:
        """Run the context side, once for each request.

        Args:
            tokens: (T, W) all contexts one behind another.
            offsets: (R + 1,) int64.

        Raises:
            UsageError: the offsets do not ascend from 0 to T.
        """
        if not _cover(offsets, len(tokens)):
            raise UsageError(
                "the offsets do not fit the tokens",
                expected=f"(R + 1,) ascending from 0 to {len(tokens)}",
                got=str(tuple(offsets.shape)),
                fix="Pass the offsets of the list column that the tokens are of, from its first row to its last.",
            )
        kept = []
        # The last layer's states are nobody's.
        planned = plan_contexts(offsets, self.heads) if len(self.layers) > 1 else []
        for number, layer in enumerate(self._layers):
            queries, keys, values = layer.split(tokens)
            kept.append((keys, values))
            # Nobody reads the context's states behind the last layer's keys and values.
            if number + 1 < len(self.layers):
                tokens = layer.finish(tokens, attend_within(queries, keys, values, planned, causal=self.causal))
        return EncodedContexts(tuple(kept), offsets)

    def shared(self, contexts: EncodedContexts, windows: Windows) -> EncodedContexts:
        """Encoded contexts of users, of which each request reads an interval.

        Args:
            contexts: Of U users, from ``encode``; a token must not depend on the request (no position counted from the
                request's own window).
            windows: Interval of the flat tokens for each of R requests; they may overlap.

        Returns:
            For ``forward``, whose ``inverse_indices`` then name requests, not users.

        Raises:
            UsageError: the result would not be that of encoding each request's window by itself: with several layers,
                windows that begin elsewhere than their context (``dedup_storage.training.sharing``).
        """
        check_shared(windows, contexts.offsets, layers=len(self.layers), causal=self.causal)
        return EncodedContexts(contexts.layers, contexts.offsets, windows)

    def forward(self, candidates: Tensor, contexts: EncodedContexts, inverse_indices: Tensor) -> Tensor:
        """Run the candidate side.

        Args:
            candidates: (B, W).
            contexts: From ``encode``, from ``shared``, or from a ``ContextCache``.
            inverse_indices: (B,) int64 context of each candidate.

        Returns:
            (B, W), what the ordinary transformer over [context, candidate] gives at the candidate.
        """
        if not contexts.layers and not len(candidates):
            # A cache that was asked for no context knows of no layers.
            return candidates
        windows = contexts.windows if contexts.windows is not None else Windows.of_offsets(contexts.offsets)
        tokens = len(contexts.layers[0][0]) if contexts.layers else 0
        attention = Attention(windows, inverse_indices, tokens, backend=self.backend, check=bool(contexts.layers))
        for layer, (keys, values) in zip(self._layers, contexts.layers, strict=True):
            queries, own_keys, own_values = layer.split(candidates)
            candidates = layer.finish(candidates, attention(queries, keys, values, own=(own_keys, own_values)))
        return candidates

    def expanded(self, tokens: Tensor, offsets: Tensor, candidates: Tensor, inverse_indices: Tensor) -> Tensor:
        """The ordinary form, for comparison: each candidate behind a copy of its context, every layer over all of it.

        Args, Returns: as ``encode`` and ``forward`` together.
        """
        lengths = (offsets[1:] - offsets[:-1])[inverse_indices]
        ends = (lengths + 1).cumsum(0)
        bounds = nn.functional.pad(ends, (1, 0))
        owners = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths + 1)
        steps = torch.arange(len(owners), device=lengths.device) - bounds[:-1][owners]
        is_candidate = steps == lengths[owners]
        source = offsets[:-1][inverse_indices][owners] + steps
        padded = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])
        rows = torch.where(
            is_candidate.unsqueeze(1), candidates[owners], padded[torch.where(is_candidate, len(tokens), source)]
        )
        planned = plan_contexts(bounds, self.heads)
        for layer in self._layers:
            queries, keys, values = layer.split(rows)
            attended = attend_within(queries, keys, values, planned, causal=self.causal, last_is_apart=True)
            rows = layer.finish(rows, attended)
        return rows[ends - 1]
