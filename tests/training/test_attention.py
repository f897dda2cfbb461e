"""Attention of candidates over contexts: every backend against the plain form, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.attention import AgeBias, Attention, Backend, Moments, Windows, attend
from dedup_storage.training.attention.contexts import attend_within, plan_contexts

# Largest difference from the plain form in float64, outputs and gradients of order 1.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2}
HEADS, WIDTH = 2, 8


@dataclass(frozen=True)
class Case:
    """Inputs of ``attend`` in float64."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    windows: Windows
    inverse_indices: Tensor
    own: tuple[Tensor, Tensor] | None = None
    moments: Moments | None = None
    bias: AgeBias | None = None

    def to(self, device: str) -> Case:
        """The same on another device."""
        moments = self.moments
        if moments is not None:
            moments = replace(moments, events=moments.events.to(device), at=moments.at.to(device))
        return Case(
            self.queries.to(device),
            self.keys.to(device),
            self.values.to(device),
            replace(self.windows, starts=self.windows.starts.to(device), ends=self.windows.ends.to(device)),
            self.inverse_indices.to(device),
            own=None if self.own is None else (self.own[0].to(device), self.own[1].to(device)),
            moments=moments,
            bias=self.bias,
        )

    def run(self, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Output and gradients, in float64 on the CPU."""
        leaves = {"queries": self.queries, "keys": self.keys, "values": self.values}
        if self.own is not None:
            leaves |= {"own keys": self.own[0], "own values": self.own[1]}
        # Leaves of their own: a case that is of this type and device already would become one.
        leaves = {name: t.detach().clone().to(dtype).requires_grad_() for name, t in leaves.items()}
        own = (leaves["own keys"], leaves["own values"]) if self.own is not None else None
        bias = None
        if self.bias is not None:
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            bias = AgeBias(HEADS, self.bias.classes, self.bias.unit).to(self.queries.device, wide)
            bias.load_state_dict(self.bias.state_dict())
        found = attend(
            leaves["queries"], leaves["keys"], leaves["values"], self.windows, self.inverse_indices,
            own=own, moments=self.moments, bias=bias, backend=backend,
        )  # fmt: skip
        assert found.dtype == dtype
        weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64, device=found.device).view_as(found)
        (found.to(torch.float64) * weights).sum().backward()
        grads = {name: t.grad if t.grad is not None else torch.zeros_like(t) for name, t in leaves.items()}
        if bias is not None and bias.table.grad is not None:
            grads["bias"] = bias.table.grad
        return {name: t.detach().to("cpu", torch.float64) for name, t in {"output": found, **grads}.items()}


def packed(lengths: list[int], counts: list[int], *, seed: int = 0, shuffle: bool = False) -> Case:
    """Contexts of some lengths one behind another, and so many candidates for each."""
    random = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    inverse = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    if shuffle:
        inverse = inverse[torch.randperm(len(inverse), generator=random)]
    total, rows = int(offsets[-1]), len(inverse)

    def normal(n: int) -> Tensor:
        return torch.randn(n, HEADS, WIDTH, generator=random, dtype=torch.float64)

    return Case(normal(rows), normal(total), normal(total), Windows.of_offsets(offsets), inverse)


def with_own(case: Case) -> Case:
    random = torch.Generator().manual_seed(7)
    own = [torch.randn(case.queries.shape, generator=random, dtype=torch.float64) for _ in range(2)]
    return replace(case, own=(own[0], own[1]))


def with_moments(case: Case, *, hide: bool = True) -> Case:
    """Events of ascending time; the first query sees none of its keys."""
    events = torch.arange(len(case.keys)) * 3
    at = torch.arange(len(case.queries)) * 5 % (3 * max(len(case.keys), 1))
    at[:1] = -1
    return replace(case, moments=Moments(events, at, hide_later=hide))


def with_bias(case: Case, classes: int = 6, unit: int = 2) -> Case:
    bias = AgeBias(HEADS, classes=classes, unit=unit).to(torch.float64)
    with torch.no_grad():
        bias.table.copy_(torch.randn(bias.table.shape, generator=torch.Generator().manual_seed(3)))
    return replace(with_moments(case), bias=bias)


def over_years(case: Case) -> Case:
    """Times in microseconds, decades apart: bounds of ages, and times, beyond 32 bits."""
    assert case.moments is not None
    moments = replace(case.moments, events=case.moments.events * 10**13 - 10**15, at=case.moments.at * 10**13)
    return replace(case, moments=moments)


def shared_lists(case: Case) -> Case:
    """Windows of requests that share a user's list of events: they overlap, one is empty, one is everything."""
    total = len(case.keys)
    starts = torch.tensor([0, 2, 5, 0, 9])[: len(case.windows)]
    ends = torch.tensor([7, 11, 5, total, 13])[: len(case.windows)]
    return replace(case, windows=Windows(starts, ends))


CASES: dict[str, Callable[[], Case]] = {
    "ragged": lambda: packed([3, 0, 17, 1, 8], [2, 3, 1, 0, 4]),
    "one impression each": lambda: packed([5, 2, 9], [1, 1, 1]),
    "in any order": lambda: packed([5, 2, 9], [3, 4, 2], shuffle=True),
    "long beside short": lambda: packed([300, 1, 2, 290], [2, 40, 1, 3]),
    "own key": lambda: with_own(packed([3, 0, 17, 1], [2, 3, 1, 4])),
    "later hidden": lambda: with_moments(packed([6, 4, 0, 9], [3, 2, 2, 5])),
    "bias by age": lambda: with_bias(packed([6, 4, 0, 9], [3, 2, 2, 5])),
    "own key, later hidden, bias": lambda: with_own(with_bias(packed([6, 4, 0, 9], [3, 2, 2, 5]))),
    "ages of microseconds": lambda: over_years(with_bias(packed([6, 4, 0, 9], [3, 2, 2, 5]), 32, 1_000_000)),
    "one class of ages": lambda: with_own(with_bias(packed([6, 4, 0, 9], [3, 2, 2, 5]), classes=1)),
    "shared lists": lambda: shared_lists(packed([4, 4, 4, 4, 4], [2, 3, 1, 4, 2])),
    "shared lists, later hidden": lambda: with_moments(shared_lists(packed([4, 4, 4, 4, 4], [2, 3, 1, 4, 2]))),
    "no query": lambda: packed([3, 2], [0, 0]),
    "no key": lambda: packed([0, 0], [2, 1]),
    "no key but their own": lambda: with_own(packed([0, 0], [2, 1])),
}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.isfinite(found[name]).all(), name
        error = (found[name] - value).abs().max().item() if value.numel() else 0.0
        assert error <= tolerance * max(1.0, value.abs().max().item() if value.numel() else 0.0), (name, error)


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_blocks_equal_the_plain_form(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]()
    close(case.run("blocks", dtype), case.run("plain", torch.float64), TOLERANCES[dtype])


@pytest.mark.parametrize("name", list(CASES))
def test_flex_equals_the_plain_form(name: str) -> None:
    """Forward on the CPU, uncompiled, where FlexAttention has no backward pass; gradients: the GPU suite."""
    case = CASES[name]()
    with torch.no_grad():

        def run(backend: str) -> Tensor:
            return attend(
                case.queries, case.keys, case.values, case.windows, case.inverse_indices, own=case.own,
                moments=case.moments, bias=case.bias, backend=backend,
            )  # fmt: skip

        torch.testing.assert_close(run("flex"), run("plain"), rtol=1e-6, atol=1e-6)


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = with_own(with_bias(packed([6, 40, 0, 9, 12], [3, 2, 2, 5, 1])))
    whole = case.run("blocks", torch.float64)
    monkeypatch.setattr("dedup_storage.training.attention.blocks._MOST_SCORES", 10)
    close(case.run("blocks", torch.float64), whole, 1e-12)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_stays_with_its_request(broken: float) -> None:
    """The first request's tokens are none; the others' results and gradients are those without it."""
    offsets, inverse = torch.tensor([0, 2, 7, 8, 8]), torch.tensor([0, 1, 1, 2, 3])
    found = {}
    for first in (1.0, broken):
        torch.manual_seed(0)
        queries, keys, values = (torch.randn(n, HEADS, WIDTH, dtype=torch.float64) for n in (5, 8, 8))
        tokens = torch.randn(8, HEADS, WIDTH, dtype=torch.float64)
        for rows in (keys, values, tokens):
            rows[:2] = first
        queries[0] = first
        leaves = [rows.requires_grad_() for rows in (queries, keys, values, tokens)]
        out = attend(queries, keys, values, Windows.of_offsets(offsets), inverse, backend="blocks")
        planned = plan_contexts(offsets, HEADS)
        within = [attend_within(tokens, tokens, tokens, planned, causal=causal) for causal in (True, False)]
        sum(part.sum() for part in (out[1:], *(w[2:] for w in within))).backward()  # type: ignore[union-attr]
        found[first] = [out[1:], *(w[2:] for w in within), *(r.grad[2:] for r in leaves[1:] if r.grad is not None)]
    for good, other in zip(found[1.0], found[broken], strict=True):
        assert torch.equal(good, other)


def test_gradients_by_differences() -> None:
    case = with_own(with_bias(packed([3, 0, 4], [2, 1, 2])))
    assert case.bias is not None
    assert case.own is not None
    table = case.bias.table.detach()

    def f(q: Tensor, k: Tensor, v: Tensor, own_k: Tensor, own_v: Tensor, rows: Tensor) -> Tensor:
        bias = AgeBias(HEADS, classes=6, unit=2)
        bias.table = torch.nn.Parameter(rows)
        # The parameter stands for the tensor whose gradient is asked for.
        object.__setattr__(bias, "_parameters", {"table": rows})
        return attend(
            q, k, v, case.windows, case.inverse_indices, own=(own_k, own_v), moments=case.moments, bias=bias,
            backend="blocks",
        )  # fmt: skip

    inputs = [t.clone().requires_grad_() for t in (case.queries, case.keys, case.values, *case.own, table)]
    assert torch.autograd.gradcheck(f, inputs)


def test_keys_are_never_repeated_for_impressions() -> None:
    """The largest tensor that a step keeps for its backward pass grows with R, not with B."""
    sizes = {}
    for candidates in (2, 20):
        case = packed([64] * 4, [candidates] * 4)
        seen: list[int] = []

        def pack(t: Tensor, seen: list[int] = seen) -> Tensor:
            if WIDTH in t.shape and 64 in t.shape:
                seen.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            keys = case.keys.clone().requires_grad_()
            attend(case.queries, keys, case.values, case.windows, case.inverse_indices, backend="blocks")
        sizes[candidates] = max(seen)
    assert sizes[2] == sizes[20] == 4 * 64 * HEADS * WIDTH


def test_age_classes() -> None:
    bias = AgeBias(1, classes=5, unit=10)
    ages = torch.tensor([-5, 0, 9, 10, 19, 20, 39, 40, 79, 80, 10**15])
    assert bias.age_class(ages).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    powers = torch.tensor([2**i for i in range(1, 50)]) * 10
    wide = AgeBias(1, classes=64, unit=10)
    assert wide.age_class(powers).tolist() == list(range(2, 51))
    assert wide.age_class(powers - 10).tolist() == list(range(1, 50))
    for classes, unit in ((0, 1), (4, 0)):
        with pytest.raises(UsageError, match="the ages have no classes"):
            AgeBias(1, classes=classes, unit=unit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inverse_indices": torch.tensor([0, 5])}, "inverse indices name no request"),
        ({"windows": Windows(torch.tensor([0, 2]), torch.tensor([2, 9]))}, "leave the keys in 1 requests"),
        ({"inverse_indices": torch.tensor([0])}, "one inverse index for each query"),
        ({"queries": torch.zeros(2, HEADS, 3)}, "do not fit"),
        ({"bias": AgeBias(HEADS)}, "needs moments"),
        ({"moments": Moments(torch.zeros(1), torch.zeros(2))}, "the moments do not fit"),
        ({"moments": Moments(torch.zeros(4), torch.zeros(2))}, "whole numbers of 64 bits"),
        ({"backend": "fast"}, "the backend fast is not known"),
        ({"backend": Backend.VARLEN}, "the backend varlen cannot do this"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    inputs = {
        "queries": torch.zeros(2, HEADS, WIDTH),
        "keys": torch.zeros(4, HEADS, WIDTH),
        "values": torch.zeros(4, HEADS, WIDTH),
        "windows": Windows(torch.tensor([0, 2]), torch.tensor([2, 4])),
        "inverse_indices": torch.tensor([0, 1]),
    }
    with pytest.raises(UsageError, match=message):
        attend(**{**inputs, **change})


@pytest.mark.parametrize("backend", ["blocks", "plain", "flex"])
def test_one_attention_serves_several_layers(backend: str) -> None:
    case = with_own(with_bias(packed([6, 4, 0, 9], [3, 2, 2, 5])))
    attention = Attention(case.windows, case.inverse_indices, len(case.keys), moments=case.moments, backend=backend)

    def attended(layer: int) -> tuple[Tensor, Tensor]:
        queries = (case.queries * (layer + 1)).float()
        rows = case.keys.float(), case.values.float() - layer
        own = None if layer == 1 or case.own is None else (case.own[0].float(), case.own[1].float())
        bias = None if case.bias is None else AgeBias(HEADS, case.bias.classes, case.bias.unit)
        wanted = attend(
            queries, *rows, case.windows, case.inverse_indices, own=own, moments=case.moments, bias=bias,
            backend="plain",
        )  # fmt: skip
        return attention(queries, *rows, own=own, bias=bias), wanted

    # Scoring and training by turns: a mask made for the one is not enough for the other.
    for layer in range(4):
        with torch.set_grad_enabled(layer > 1):
            torch.testing.assert_close(*attended(layer), rtol=0, atol=2e-5)
    with pytest.raises(UsageError, match="the keys are not those of the windows; expected 19; got 18"):
        attention(case.queries, case.keys[1:], case.values[1:])
