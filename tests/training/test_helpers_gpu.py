"""Every helper of training gives on a GPU what it gives on the CPU, gradients too; skipped elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dedup_storage.reader import DedupBatch
from dedup_storage.training import (
    CountWeightedBatchNorm1d,
    RankRows,
    StreamingLogQ,
    count_weighted_moments,
    design_effect,
    diagnose_order,
    intraclass_correlation,
    negative_mask,
    sum_over_ranks,
    user_masked_info_nce,
)
from dedup_storage.training.attention import AgeBias, Windows, attend
from dedup_storage.training.context_cache import ContextCache, ContextKey, history_digests
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts
from dedup_storage.training.sharing import unequal_windows
from tests.training.device import DEVICE, needs_cuda, needs_device, same
from tests.training.test_attention import CASES, close, packed
from tests.training.test_batch_gpu import batch_of

pytestmark = needs_device
CLOSE = 1e-9


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """A function's result, and the gradients of some tensors."""
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    out = function(*leaves)
    return [
        out.detach(),
        *torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out).to(out)).sum(), leaves),
    ]


def both(function: Callable[[Callable[[Any], Any]], Any], tolerance: float = CLOSE) -> None:
    """Hold a function, which is given how to move its inputs, against itself on the CPU."""
    same(function(lambda thing: thing.to(DEVICE)), function(lambda thing: thing), tolerance)


@pytest.mark.parametrize("positives", [None, "labels"])
@pytest.mark.parametrize("per_request", [True, False])
def test_info_nce(positives: str | None, per_request: bool) -> None:
    def run(move: Callable[[Any], Any]) -> list[Tensor]:
        batch: DedupBatch = move(batch_of("dictionary"))
        chosen = batch["label"].values > 0 if positives else None
        log_q = StreamingLogQ(64).to(batch.device)
        log_q.update(batch.item_ids())
        facts = []

        def loss(queries: Tensor, items: Tensor) -> Tensor:
            users, ids = batch.user_ids("impression"), batch.item_ids()
            found = user_masked_info_nce(
                queries if per_request else batch.expand(queries), items, users, ids,
                inverse_indices=batch.inverse_indices if per_request else None, log_q=log_q(ids),
                positives=chosen, temperature=0.2,
            )  # fmt: skip
            facts.extend([found.mean, found.rows, found.without_negatives])
            return found.loss

        return [*with_gradients(loss, move(normal(5, 4)), move(normal(9, 4, seed=1))), *facts]

    both(run)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (0, 3)])
def test_batch_norm(shape: tuple[int, ...], momentum: float | None) -> None:
    def run(move: Callable[[Any], Any]) -> list[Any]:
        norm = move(CountWeightedBatchNorm1d(3, momentum=momentum).double())
        counts = move(torch.tensor([2, 0, 7, 1])[: shape[0]])
        found = with_gradients(lambda rows: norm(rows, counts), move(normal(*shape)))
        found += with_gradients(lambda rows: norm(rows, counts), move(normal(*shape, seed=1) + 3))
        norm.eval()
        return [*found, norm(move(normal(*shape)), counts).detach(), dict(norm.state_dict())]

    both(run)


def test_counts_of_a_batch_on_the_host_are_those_of_rows_on_a_device() -> None:
    counts, rows = torch.tensor([2, 0, 7, 1]), normal(4, 3)
    same(list(count_weighted_moments(rows.to(DEVICE), counts)), list(count_weighted_moments(rows, counts)), CLOSE)


def test_streaming_log_q() -> None:
    def run(move: Callable[[Any], Any]) -> list[Any]:
        log_q = move(StreamingLogQ(97, alpha=0.3))
        for step in range(6):
            log_q.update(move(torch.arange(step, 40, 3) ** 5 - 2**60))
        return [
            log_q(move(torch.arange(60) ** 5 - 2**60)),
            log_q(move(torch.zeros(0, dtype=torch.int64))),
            dict(log_q.state_dict()),
        ]

    both(run, 1e-5)
    moved = StreamingLogQ(97).to(DEVICE).half()
    assert moved.distance.dtype == torch.float32
    assert moved.distance.device.type == torch.device(DEVICE).type


@pytest.mark.parametrize("kind", ["dictionary", "hash", "shared"])
def test_diagnostics_of_batches_on_a_device(kind: str) -> None:
    batches = [batch_of(kind), batch_of("empty") if kind == "dictionary" else batch_of(kind), batch_of(kind)]
    unlabelled = [replace(batch, label_columns=()) for batch in batches]
    for given in (batches, unlabelled):
        found, wanted = diagnose_order([batch.to(DEVICE) for batch in given]), diagnose_order(given)
        assert repr(found) == repr(wanted)


def test_labels_and_masks() -> None:
    def run(move: Callable[[Any], Any]) -> list[Any]:
        labels, groups = move(normal(40)), move(torch.arange(40) % 7)
        labels = labels.masked_fill(groups == 3, float("nan"))
        users, items = move(torch.arange(8) // 2), move(torch.tensor([1, 2, 1, 3, -(2**63), 5, 6, 2]))
        mask = negative_mask(users[2:5], items[2:5], users, items, move(torch.arange(2, 5)))
        return [intraclass_correlation(labels, groups), design_effect(labels, groups), mask]

    both(run)


def test_rows_of_one_rank() -> None:
    def run(move: Callable[[Any], Any]) -> list[Any]:
        rows = move(normal(3, 2))
        shares = RankRows.exchange(3, rows.device)
        return [shares.gather(rows), sum_over_ranks(rows), shares.sizes]

    both(run)


def test_digests_of_tensors_on_a_device() -> None:
    columns = [torch.arange(6), normal(6, 2), normal(6).to(torch.bfloat16), torch.arange(6) > 2]
    offsets = torch.tensor([0, 2, 2, 6])
    moved = [column.to(DEVICE) for column in columns]
    assert history_digests(offsets.to(DEVICE), *moved) == history_digests(offsets, *columns)
    # Columns that lie in another order in memory.
    assert history_digests(offsets, moved[1].T.contiguous().T) == history_digests(offsets, columns[1])


def test_windows_that_may_not_be_shared() -> None:
    def run(move: Callable[[Any], Any]) -> list[Tensor]:
        offsets = move(torch.tensor([0, 9, 9, 14]))
        windows = Windows(move(torch.tensor([0, 2, 4, 9, 14])), move(torch.tensor([5, 9, 10, 14, 14])))
        none = Windows(windows.starts[:0], windows.ends[:0])
        return [
            unequal_windows(given, offsets, layers=layers, causal=causal)
            for given in (windows, none) for layers in (1, 2) for causal in (True, False)
        ]  # fmt: skip

    both(run)


@pytest.mark.parametrize("classes", [1, 6, 70])
def test_bias_by_age(classes: int) -> None:
    def run(move: Callable[[Any], Any]) -> list[Tensor]:
        bias = move(AgeBias(2, classes=classes, unit=1000).double())
        with torch.no_grad():
            bias.table.copy_(normal(2, classes))
        ages = move(torch.tensor([[-5, 0, 999], [1000, 10**12, 2**62]]))
        out = bias(ages)
        return [bias.age_class(ages), out.detach(), *torch.autograd.grad((out**2).sum(), bias.parameters())]

    both(run)


@pytest.mark.parametrize("name", list(CASES))
def test_blocks_and_plain(name: str) -> None:
    case = CASES[name]()
    for backend in ("blocks", "plain", "auto"):
        close(case.to(DEVICE).run(backend, torch.float64), case.run("plain", torch.float64), 1e-10)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_heads_of_a_width_that_is_no_power_of_two(dtype: torch.dtype) -> None:
    case = packed([130, 0, 17, 1, 140], [2, 30, 1, 0, 100])
    queries, keys, values = (normal(*t.shape[:2], 24) for t in (case.queries, case.keys, case.values))
    case = replace(case, queries=queries, keys=keys, values=values)
    wanted = case.run("plain", torch.float64)
    close(case.to("cuda").run("auto", dtype), wanted, 1e-2 if dtype == torch.float32 else 6e-2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_the_transformer(causal: bool, shared: bool) -> None:
    def run(move: Callable[[Any], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = move(DedupTransformer(16, heads=2, layers=2, causal=causal).double())
        offsets, inverse = move(torch.tensor([0, 3, 3, 10])), move(torch.tensor([0, 2, 0, 1]))
        windows = Windows(move(torch.tensor([0, 3, 3])), move(torch.tensor([3, 3, 10])))

        def scores(tokens: Tensor, candidates: Tensor) -> Tensor:
            contexts = model.encode(tokens, offsets)
            found: Tensor = model(candidates, model.shared(contexts, windows) if shared else contexts, inverse)
            return found

        def expanded(tokens: Tensor, candidates: Tensor) -> Tensor:
            return model.expanded(tokens, offsets, candidates, inverse)

        leaves = move(normal(10, 16)), move(normal(4, 16, seed=1))
        return [*with_gradients(scores, *leaves), *with_gradients(expanded, *leaves)]

    both(run)


@pytest.mark.parametrize("held", [None, "cpu", "pinned"])
def test_a_cache_gives_contexts_where_the_model_is(held: str | None) -> None:
    if held == "pinned" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device to pin memory for")
    torch.manual_seed(0)
    model = DedupTransformer(16, heads=2, layers=2).double()
    lengths = [3, 0, 5]
    tokens, offsets = normal(8, 16), torch.tensor([0, 3, 3, 8])
    wanted = model.encode(tokens, offsets)
    model = model.to(DEVICE)
    cache = ContextCache(1 << 20, device=None if held is None else "cpu", pin=held == "pinned")
    keys = [ContextKey(user, bytes([user]), "1") for user in range(3)]

    def encode(places: list[int]) -> EncodedContexts:
        rows = [tokens[offsets[p] : offsets[p + 1]] for p in places]
        bounds = torch.tensor([0, *(lengths[p] for p in places)]).cumsum(0)
        return model.encode(torch.cat(rows).to(DEVICE), bounds.to(DEVICE))

    cache.contexts(keys[:1], encode)
    for chosen in ([0, 1, 2], [0, 1, 2], [2], [1]):
        # The second time nothing is encoded: the contexts come to the same place nevertheless.
        found = cache.contexts([keys[p] for p in chosen], encode)
        alone = encode(chosen)
        same(
            [found.offsets, *found.layers], [alone.offsets.cpu(), *((k.cpu(), v.cpu()) for k, v in alone.layers)], CLOSE
        )
    whole = cache.contexts(keys, encode)
    same([whole.offsets, *whole.layers], [wanted.offsets, *wanted.layers], CLOSE)
    assert cache.contexts(keys, encode, device="cpu").layers[0][0].device.type == "cpu"
    candidates, inverse = normal(4, 16, seed=2), torch.tensor([0, 2, 0, 1])
    scores = model(candidates.to(DEVICE), whole, inverse.to(DEVICE))
    same(scores, model.cpu()(candidates, wanted, inverse), CLOSE)


def test_attention_reads_shared_lists_of_a_batch() -> None:
    def run(move: Callable[[Any], Any]) -> Tensor:
        batch: DedupBatch = move(batch_of("shared"))
        lists = batch.shared["history"]
        lists.windows.check(len(lists.values), batch.inverse_indices)
        rows = move(normal(len(lists.values), 2, 4))
        queries = move(normal(batch.num_impressions, 2, 4, seed=1))
        return attend(queries, rows, rows, lists.windows, batch.inverse_indices)

    both(run)
