"""Behaviours 1, 3, 9, 29 with ranks in real processes (gloo), one of them killed with kill -9."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dedup_storage.reader import DedupDataset, merge_states
from tests.reader.lake import Lake, make_log

SCRIPT = Path(__file__).with_name("rank_process.py")
ROOT = SCRIPT.parent.parent.parent


def run_ranks(lake: Lake, name: str, out: Path, world: int, kill_at: int = -1) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), str(lake.settings.warehouse), name, str(out), str(kill_at)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": str(r)}, stderr=subprocess.DEVNULL)
        for r in range(world)
    ]
    try:
        return [rank.wait(timeout=120) for rank in ranks]
    finally:
        # Ranks wait for one another: where one is late, all are left.
        for rank in ranks:
            rank.kill()


def lines(out: Path, rank: int) -> list[tuple[Any, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in (out / f"rank{rank}.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_29_a_rank_killed_with_kill_9_then_restart_loses_and_repeats_nothing(
    lake: Lake, name: str, tmp_path: Path
) -> None:
    lake.write(name, make_log(users=20), buckets=4)
    alone = DedupDataset(name, lake.settings, batch_size=10, columns=["item_id"])
    everything = [[b.progress.index, b["request_id"].values.tolist()] for b in alone]
    codes = run_ranks(lake, name, tmp_path, world=2, kill_at=2)
    assert codes[1] == -9
    before = [lines(tmp_path, rank) for rank in range(2)]
    found = [delivered for rank in before for delivered, _ in rank if delivered is not None]
    assert len(before[1]) - 1 == 2
    (tmp_path / "merged.json").write_text(json.dumps(merge_states([rank[-1][1] for rank in before])))
    assert run_ranks(lake, name, tmp_path, world=3) == [0, 0, 0]
    found += [delivered for rank in range(3) for delivered, _ in lines(tmp_path, rank) if delivered is not None]
    assert sorted(found) == sorted(everything)
