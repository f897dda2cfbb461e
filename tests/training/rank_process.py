"""One rank of a training step: ``python rank_process.py OUT [ddp]``, with torch.distributed's environment variables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dedup_storage.training import CountWeightedBatchNorm1d, RankRows, StreamingLogQ
from tests.training.toy import Toy, TwoTower, gradients, train_step

# Uneven shares of the requests; a third rank has none.
BOUNDS = (0, 4, 12, 12)


def step(group: dist.ProcessGroup, ddp: bool) -> dict[str, Any]:
    """Train a step on this rank's requests; what came out, as JSON values."""
    whole = Toy.make()
    toy = whole.part(BOUNDS[dist.get_rank()], BOUNDS[dist.get_rank() + 1])
    model = TwoTower(group=group)
    wrapped: nn.Module = model
    if ddp:
        wrapped = nn.parallel.DistributedDataParallel(model, process_group=group)
    facts = train_step(wrapped, toy, group=group)
    if not ddp:
        # What DistributedDataParallel does, without the seconds that importing its compiler takes.
        for parameter in model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= dist.get_world_size(group)

    norm = CountWeightedBatchNorm1d(5, group=group).double()
    rows = toy.features.clone().requires_grad_()
    ((norm(rows, toy.lengths) ** 3) * toy.lengths[:, None]).sum().backward()
    assert rows.grad is not None
    local = CountWeightedBatchNorm1d(5, synchronize=False).double()
    local(toy.features, toy.lengths)
    estimator = StreamingLogQ(1 << 10)
    for _ in range(3):
        estimator.update(RankRows.exchange(len(toy.items), toy.items.device, group).gather(toy.items))
    return {
        **facts,
        "gradients": gradients(model),
        "input_gradient": rows.grad.flatten().tolist(),
        "running": [norm.running_mean.tolist(), norm.running_var.tolist()],  # type: ignore[union-attr]
        "local": local.running_mean.tolist(),  # type: ignore[union-attr]
        "log_q": estimator(whole.items).tolist(),
    }


def main(out: str, ddp: bool) -> None:
    """A step in a group of the first two ranks, then in one of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for size in {2, world}:
        group = dist.new_group(list(range(size)))
        if rank < size:
            (Path(out) / f"rank{rank}of{size}.json").write_text(json.dumps(step(group, ddp)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["ddp"])
