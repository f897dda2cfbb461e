"""Ranks in real processes (gloo): the same as one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dedup_storage.training import CountWeightedBatchNorm1d, RankRows, StreamingLogQ, sum_over_ranks
from tests.training.toy import Toy, TwoTower, gradients, train_step

SCRIPT = Path(__file__).with_name("rank_process.py")
ROOT = SCRIPT.parents[2]


def run_ranks(out: Path, world: int, *options: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(out), *options], env={**os.environ, **common, "RANK": str(r)}
        )
        for r in range(world)
    ]
    assert [rank.wait(timeout=180) for rank in ranks] == [0] * world


def results(out: Path, world: int) -> list[dict[str, Any]]:
    return [json.loads((out / f"rank{r}of{world}.json").read_text()) for r in range(world)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    run_ranks(out, 3)
    return out


@pytest.fixture(params=[2, 3], ids=["two ranks", "three ranks, one empty"])
def ranks(request: pytest.FixtureRequest, three: Path) -> list[dict[str, Any]]:
    return results(three, request.param)


@pytest.mark.slow
def test_distributed_data_parallel_trains_as_one_process(tmp_path: Path) -> None:
    run_ranks(tmp_path, 2, "ddp")
    test_loss_counts_and_gradients_are_those_of_one_process(results(tmp_path, 2))


@pytest.mark.long
def test_loss_counts_and_gradients_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    model = TwoTower()
    alone = train_step(model, Toy.make())
    assert sum(r["loss"] for r in ranks) / len(ranks) == pytest.approx(alone["loss"], rel=1e-12)
    expected = gradients(model)
    for rank in ranks:
        assert rank["mean"] == pytest.approx(alone["mean"], rel=1e-12)
        assert (rank["rows"], rank["without"]) == (alone["rows"], alone["without"])
        assert rank["gradients"].keys() == expected.keys()
        for name, values in expected.items():
            assert rank["gradients"][name] == pytest.approx(values, rel=1e-9, abs=1e-12), name


def test_batch_norm_synchronises_weighted_by_counts(ranks: list[dict[str, Any]]) -> None:
    toy = Toy.make()
    plain = torch.nn.BatchNorm1d(5, dtype=torch.float64)
    rows = toy.features.clone().requires_grad_()
    (plain(rows[toy.inverse]) ** 3).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    pieces = torch.tensor([v for r in ranks for v in r["input_gradient"]], dtype=torch.float64)
    torch.testing.assert_close(pieces.reshape(-1, 5), rows.grad)
    for rank in ranks:
        mean, variance = rank["running"]
        assert mean == pytest.approx(plain.running_mean.tolist())  # type: ignore[union-attr]
        assert variance == pytest.approx(plain.running_var.tolist())  # type: ignore[union-attr]
    alone = CountWeightedBatchNorm1d(5).double()
    alone(toy.part(0, 4).features, toy.part(0, 4).lengths)
    assert ranks[0]["local"] == pytest.approx(alone.running_mean.tolist())  # type: ignore[union-attr]


def test_the_estimate_of_log_q_agrees_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    toy, estimator = Toy.make(), StreamingLogQ(1 << 10)
    for _ in range(3):
        estimator.update(toy.items)
    assert all(rank["log_q"] == estimator(toy.items).tolist() for rank in ranks)


def test_without_a_process_group_everything_is_the_identity() -> None:
    rows = torch.randn(5, 2, requires_grad=True)
    shares = RankRows.exchange(5, rows.device)
    assert (shares.own, shares.first, shares.total) == (5, 0, 5)
    assert shares.gather(rows) is rows
    assert sum_over_ranks(rows) is rows


def test_places_of_uneven_shares() -> None:
    shares = RankRows((4, 0, 3), rank=2)
    assert (shares.own, shares.first, shares.total) == (3, 4, 7)
