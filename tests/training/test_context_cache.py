"""The cache of encoded contexts: equal scores, bounds, what may never be mixed up, threads."""

from __future__ import annotations

import threading

import pytest
import torch

from dedup_storage.errors import UsageError
from dedup_storage.training.context_cache import ContextCache, ContextKey, history_digests
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts

WIDTH = 8
# Two layers, keys and values, float32.
TOKEN_BYTES = 2 * 2 * WIDTH * 4


class Scorer:
    """A model whose context side counts what it encodes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = DedupTransformer(WIDTH, heads=2, layers=2)
        self.encoded: list[int] = []

    def encode(self, histories: list[torch.Tensor], places: list[int]) -> EncodedContexts:
        self.encoded += places
        chosen = [histories[p] for p in places]
        offsets = torch.tensor([0, *(len(h) for h in chosen)]).cumsum(0)
        return self.model.encode(torch.cat(chosen), offsets)


def histories(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, WIDTH, generator=random) for n in lengths]


def keys_of(users: list[int], lists: list[torch.Tensor], model: str = "m1") -> list[ContextKey]:
    offsets = torch.tensor([0, *(len(h) for h in lists)]).cumsum(0)
    return [ContextKey(u, d, model) for u, d in zip(users, history_digests(offsets, torch.cat(lists)), strict=True)]


def test_scores_are_those_without_a_cache() -> None:
    scorer, lists, cache = Scorer(), histories(5, 0, 9), ContextCache(1 << 20)
    keys = keys_of([1, 2, 3], lists)
    inverse, candidates = torch.tensor([0, 0, 1, 2]), torch.randn(4, WIDTH)
    direct = scorer.model(candidates, scorer.encode(lists, [0, 1, 2]), inverse)
    scorer.encoded.clear()
    for _ in range(3):
        contexts = cache.contexts(keys, lambda missing: scorer.encode(lists, missing))
        torch.testing.assert_close(scorer.model(candidates, contexts, inverse), direct)
    assert scorer.encoded == [0, 1, 2]
    seen = cache.statistics
    assert (seen.hits, seen.misses, seen.contexts, seen.num_bytes) == (6, 3, 3, 14 * TOKEN_BYTES)
    assert seen.hit_rate == pytest.approx(2 / 3)


def test_only_what_is_missing_is_encoded_and_each_once() -> None:
    scorer, lists, cache = Scorer(), histories(2, 3, 4), ContextCache(1 << 20)
    keys = keys_of([1, 2, 3], lists)
    cache.contexts(keys[:1], lambda missing: scorer.encode(lists, missing))
    order = [2, 0, 1, 2]
    found = cache.contexts([keys[i] for i in order], lambda missing: scorer.encode([lists[i] for i in order], missing))
    assert scorer.encoded == [0, 0, 2]
    assert found.offsets.tolist() == [0, 4, 6, 9, 13]
    whole = scorer.encode([lists[i] for i in order], [0, 1, 2, 3])
    for (k, v), (wanted_k, wanted_v) in zip(found.layers, whole.layers, strict=True):
        torch.testing.assert_close(k, wanted_k)
        torch.testing.assert_close(v, wanted_v)


def test_a_changed_history_or_model_is_another_context() -> None:
    scorer, lists, cache = Scorer(), histories(4), ContextCache(1 << 20)
    changed = [lists[0].clone()]
    changed[0][2, 3] += 1e-6
    longer = [torch.cat([lists[0], torch.zeros(1, WIDTH)])]
    asked = [
        keys_of([1], lists),
        keys_of([1], changed),
        keys_of([1], longer),
        keys_of([1], lists, "m2"),
        keys_of([2], lists),
    ]
    assert len({k for keys in asked for k in keys}) == 5
    for keys in asked:
        cache.contexts(keys, lambda missing: scorer.encode(lists, missing))
    assert cache.statistics.misses == 5


def test_digests_tell_columns_types_and_borders_apart() -> None:
    one, two = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    offsets = torch.tensor([0, 2, 2, 3])
    digests = history_digests(offsets, one, two)
    assert len(set(digests)) == 3
    assert history_digests(offsets, one, two) == digests
    others = [
        history_digests(offsets, two, one), history_digests(offsets, one.to(torch.int32), two),
        history_digests(offsets, one), history_digests(torch.tensor([0, 1, 1, 3]), one, two),
    ]  # fmt: skip
    assert all(other[0] != digests[0] for other in others)
    for wrong in (torch.tensor([0, 2]), torch.tensor([0, 4]), torch.tensor([1, 3])):
        # What lies outside of the offsets may change, and no digest would.
        with pytest.raises(UsageError, match=r"offsets do not fit the history's columns; expected from 0 to 3"):
            history_digests(wrong, one, two)
    with pytest.raises(UsageError, match="none is given"):
        history_digests(offsets)
    assert history_digests(torch.tensor([0]), one[:0]) == []


def test_the_bound_holds_and_the_least_recently_used_goes() -> None:
    scorer, lists = Scorer(), histories(4, 4, 4, 20)
    cache = ContextCache(8 * TOKEN_BYTES)
    keys = keys_of([0, 1, 2, 3], lists)

    def ask(*places: int) -> None:
        chosen = [lists[p] for p in places]
        found = cache.contexts([keys[p] for p in places], lambda missing: scorer.encode(chosen, missing))
        assert found.offsets[-1] == sum(len(h) for h in chosen)
        assert cache.statistics.num_bytes <= 8 * TOKEN_BYTES

    ask(0)
    ask(1)
    ask(0)
    ask(2)  # 1 goes
    before = cache.statistics.misses
    ask(0)
    assert cache.statistics.misses == before
    ask(1)
    assert cache.statistics.misses == before + 1
    ask(3)  # larger than the cache: scored, not kept
    assert cache.statistics.contexts == 2
    assert cache.statistics.evicted == 2
    cache.clear()
    assert (cache.statistics.contexts, cache.statistics.num_bytes) == (0, 0)


def test_threads() -> None:
    scorer, lists = Scorer(), histories(*range(1, 13))
    keys, cache, wrong = keys_of(list(range(12)), lists), ContextCache(40 * TOKEN_BYTES), []
    wanted = [scorer.encode(lists, [p]) for p in range(12)]

    def work(seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for _ in range(40):
            places = torch.randint(0, 12, (3,), generator=random).tolist()
            chosen = [lists[p] for p in places]
            found = cache.contexts(
                [keys[p] for p in places], lambda missing, chosen=chosen: Scorer.encode(scorer, chosen, missing)
            )
            expected = torch.cat([wanted[p].layers[1][0] for p in places])
            if not torch.allclose(found.layers[1][0], expected, atol=1e-6):
                wrong.append(places)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    seen = cache.statistics
    assert seen.hits + seen.misses == 4 * 40 * 3
    assert seen.num_bytes == sum(e.num_bytes for e in cache._entries.values()) <= 40 * TOKEN_BYTES


def test_refused() -> None:
    with pytest.raises(UsageError, match="the cache holds nothing"):
        ContextCache(0)
    with pytest.raises(UsageError, match="only contexts held on the CPU can be pinned"):
        ContextCache(1, pin=True)
    scorer, lists = Scorer(), histories(3, 4)
    with pytest.raises(UsageError, match="another number of contexts"):
        ContextCache(1 << 20).contexts(keys_of([1, 2], lists), lambda missing: scorer.encode(lists, missing[:1]))


def test_nothing_is_read_before_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to the CPU that is not waited for is read while it is under way."""
    scorer, lists, cache = Scorer(), histories(2, 3), ContextCache(1 << 20)
    plain, waited = torch.Tensor.to, []

    def to(rows: torch.Tensor, *place: object, non_blocking: bool = False, **options: object) -> torch.Tensor:
        waited.append(not non_blocking)
        return plain(rows, *place, non_blocking=non_blocking, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(torch.Tensor, "to", to)
    cache.contexts(keys_of([1, 2], lists), lambda missing: scorer.encode(lists, missing), device="cpu")
    assert waited
    assert all(waited)


def test_no_request_has_no_scores() -> None:
    scorer, cache = Scorer(), ContextCache(1 << 20)
    contexts = cache.contexts([], lambda missing: scorer.encode([], missing))
    assert scorer.model(torch.zeros(0, WIDTH), contexts, torch.zeros(0, dtype=torch.int64)).shape == (0, WIDTH)
