"""One training step on deduplicated batches and on the same batches as flat rows: same gradients, other cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dedup_storage.cli.output import show_table, stdout
from dedup_storage.reader import DedupBatch, flat_batch
from dedup_storage.words import human_bytes

__all__ = ["Comparison", "compare", "wait"]

Loss = Callable[[DedupBatch], Tensor]


@dataclass(frozen=True)
class Comparison:
    """What a step costs both ways; bytes and rows are means over the batches, seconds medians over all steps.

    Attributes:
        requests, impressions: R and B of a batch.
        moved_bytes, flat_moved_bytes: Bytes copied to the device for a step.
        step_seconds, flat_step_seconds: Move, forward and backward.
        loss_difference: Greatest difference of the losses.
        gradient_difference: Greatest difference of two gradients' elements, relative to the greatest element of all.
    """

    requests: float
    impressions: float
    moved_bytes: float
    flat_moved_bytes: float
    step_seconds: float
    flat_step_seconds: float
    loss_difference: float
    gradient_difference: float

    def show(self, title: str) -> None:
        """Print it as a table."""
        pairs = [
            ("rows that the user tower sees", f"{self.impressions:,.0f}", f"{self.requests:,.0f}"),
            ("bytes moved", human_bytes(self.flat_moved_bytes), human_bytes(self.moved_bytes)),
            ("step time", f"{1e3 * self.flat_step_seconds:,.1f} ms", f"{1e3 * self.step_seconds:,.1f} ms"),
        ]
        ratios = (
            self.impressions / self.requests,
            self.flat_moved_bytes / self.moved_bytes,
            self.flat_step_seconds / self.step_seconds,
        )
        rows = [(*pair, f"{ratio:.1f}x") for pair, ratio in zip(pairs, ratios, strict=True)]
        show_table(title, ("a step", "flat (B rows)", "deduplicated (R rows)", "less by"), rows)
        stdout.print(f"Greatest difference: loss {self.loss_difference:.1e}, gradients {self.gradient_difference:.1e}")

    def values(self) -> dict[str, float]:
        """As JSON values."""
        return asdict(self)


def _step(
    model: nn.Module, buffers: Mapping[str, Tensor], loss_of: Loss, batch: DedupBatch, device: torch.device
) -> tuple[float, float]:
    """Seconds and loss of moving a batch, forward and backward, from the same running statistics every time."""
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.zero_grad(set_to_none=True)
    wait(device)
    began = time.perf_counter()
    loss = loss_of(batch.to(device, non_blocking=True))
    loss.backward()
    wait(device)
    return time.perf_counter() - began, float(loss.detach())


def wait(device: torch.device) -> None:
    """Until the device has done what it was given, so that a clock read next counts it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def compare(
    model: nn.Module, loss_of: Loss, batches: Sequence[DedupBatch], device: torch.device, rounds: int = 3
) -> Comparison:
    """Take steps both ways, in turn; the model stays as it is, but for running statistics of one step.

    Args:
        model: Whose gradients are compared.
        loss_of: Loss of a batch that is on the device.
        batches: Batches in host memory.
        device: Where to compute.
        rounds: Steps of each kind and batch.
    """
    ours, flat, loss_gap, gradient_gap = [], [], 0.0, 0.0
    pairs = [(batch, flat_batch(batch)) for batch in batches]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for number in range(rounds + 1):
        for batch, expanded in pairs:
            seconds, loss = _step(model, buffers, loss_of, batch, device)
            gradients = _gradients(model)
            flat_seconds, flat_loss = _step(model, buffers, loss_of, expanded, device)
            if number == 0:  # the first round warms up
                loss_gap = max(loss_gap, abs(loss - flat_loss))
                gradient_gap = max(gradient_gap, _greatest_gap(gradients, _gradients(model)))
                continue
            ours.append(seconds)
            flat.append(flat_seconds)
    number_of = len(batches)
    return Comparison(
        requests=sum(b.num_requests for b in batches) / number_of,
        impressions=sum(len(b) for b in batches) / number_of,
        moved_bytes=sum(b.num_bytes for b in batches) / number_of,
        flat_moved_bytes=sum(f.num_bytes for _, f in pairs) / number_of,
        step_seconds=statistics.median(ours),
        flat_step_seconds=statistics.median(flat),
        loss_difference=loss_gap,
        gradient_difference=gradient_gap,
    )


def _greatest_gap(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    if left.keys() != right.keys():
        raise ValueError("other parameters have gradients")
    # Some gradients are zero but for rounding (a bias before a norm): no parameter is measured by itself.
    scale = max(float(gradient.abs().max()) for gradient in right.values())
    return max(float((left[n] - right[n]).abs().max()) for n in left) / max(scale, 1e-12)
