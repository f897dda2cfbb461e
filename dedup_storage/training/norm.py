"""Batch normalisation of request rows that counts each row as often as it has impressions."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dedup_storage.errors import UsageError
from dedup_storage.training.ranks import sum_over_ranks

__all__ = ["CountWeightedBatchNorm1d", "count_weighted_moments"]


def count_weighted_moments(
    rows: Tensor, counts: Tensor, *, synchronize: bool = True, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every channel over the expanded rows, without expanding them.

    mu = sum_r c_r x_r / sum_r c_r and sum_r c_r (x_r - mu)^2 / sum_r c_r, over the rows of all ranks; the variance in
    a second pass, so that a large mean costs no digits. Two collectives of C + 1 and C numbers.

    Args:
        rows: (R, C) or (R, C, L) floating point.
        counts: (R,) impressions of each row.
        synchronize: Whether ranks share their statistics.
        group: Process group; ``None`` is the default one.

    Returns:
        Mean (C,), biased variance (C,) and the number of values each is over (), in float32, or float64 for
        float64 rows; differentiable with respect to ``rows``. A batch without rows gives zeros.
    """
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    x = rows.to(wide)
    axes = [d for d in range(x.dim()) if d != 1]
    length = x.shape[2] if x.dim() == 3 else 1
    # The counts of a batch that stayed on the host belong to rows that a model made on its device.
    counts = counts.to(x.device, wide)
    weights = counts.reshape(-1, *[1] * (x.dim() - 1))

    def total(values: Tensor) -> Tensor:
        return sum_over_ranks(values, group) if synchronize else values

    first = total(torch.cat([(weights * x).sum(axes), (counts.sum() * length).reshape(1)]))
    number = first[-1].detach()
    mean = first[:-1] / number.clamp(min=1)
    centred = x - mean.reshape(1, -1, *[1] * (x.dim() - 2))
    variance = total((weights * centred**2).sum(axes)) / number.clamp(min=1)
    return mean, variance, number


class CountWeightedBatchNorm1d(nn.Module):
    """``BatchNorm1d`` of B expanded rows, computed on R request rows.

    BatchNorm over R rows is not BatchNorm over B rows: a request with 200 impressions would count as much as one with
    a single impression, and the running statistics would be those of another distribution than the one served. With
    the counts as weights, outputs, gradients and running statistics are those of ``nn.BatchNorm1d`` on
    ``batch.expand(rows)``; over several ranks those of ``nn.SyncBatchNorm``, which weights ranks by their rows.

    Parameters and buffers bear the names of ``nn.BatchNorm1d``, so either loads the other's ``state_dict()``. It is no
    subclass, so ``nn.SyncBatchNorm.convert_sync_batchnorm`` leaves it alone. Layers that see B rows are to be
    converted by that: request-sorted batches differ more from rank to rank than independent impressions do.

    A batch of one value or none leaves the running statistics alone, where ``nn.BatchNorm1d`` raises: to find out would
    mean to wait for the device.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Weight of a batch in the running statistics; ``None`` averages all batches.
        affine: Whether there are ``weight`` and ``bias`` (C,).
        track_running_stats: Whether to keep running statistics, which ``eval()`` then uses.
        synchronize: Whether ranks share their statistics in training.
        group: Process group; ``None`` is the default one.

    Example:
        >>> norm = CountWeightedBatchNorm1d(16)
        >>> users = norm(user_vectors, batch.counts())  # (R, 16)
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        synchronize: bool = True,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.synchronize, self.group = synchronize, group
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        for name, buffer in (
            ("running_mean", torch.zeros(num_features)),
            ("running_var", torch.ones(num_features)),
            ("num_batches_tracked", torch.tensor(0, dtype=torch.int64)),
        ):
            self.register_buffer(name, buffer if track_running_stats else None)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}"

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Normalise request rows.

        Args:
            rows: (R, C) or (R, C, L) floating point.
            counts: (R,) impressions of each request: ``batch.counts()``.

        Returns:
            Same shape and dtype as ``rows``.

        Raises:
            UsageError: a shape does not fit.
        """
        self._check(rows, counts)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            mean, variance = self.running_mean, self.running_var
        else:
            mean, variance, number = count_weighted_moments(
                rows, counts, synchronize=self.synchronize and self.training, group=self.group
            )
            self._track(mean.detach(), variance.detach(), number)
        shape = (1, -1, *[1] * (rows.dim() - 2))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        normal = (rows - mean.reshape(shape)) * scale.reshape(shape)
        if self.bias is not None:
            normal = normal + self.bias.reshape(shape)
        return normal.to(rows.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is None:
            return
        enough = number > 1
        self.num_batches_tracked += enough
        factor = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.clamp(min=1).double()
        unbiased = variance * (number / (number - 1).clamp(min=1))
        for running, seen in ((self.running_mean, mean), (self.running_var, unbiased)):
            moved = running + (seen.to(running.dtype) - running) * factor
            running.copy_(torch.where(enough, moved, running))

    def _check(self, rows: Tensor, counts: Tensor) -> None:
        if rows.dim() not in (2, 3) or rows.shape[1] != self.num_features or not rows.is_floating_point():
            raise UsageError(
                "rows do not fit the normalisation",
                expected=f"floating point (R, {self.num_features}) or (R, {self.num_features}, L)",
                got=f"{rows.dtype} {tuple(rows.shape)}",
            )
        if counts.shape != (len(rows),):
            raise UsageError(
                "there is not one count for each row",
                expected=f"({len(rows)},)",
                got=str(tuple(counts.shape)),
                fix="Pass batch.counts() with request-grain rows.",
            )
