"""A run id stands for its request: what differs is named, functions are told by what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dedup_storage.errors import UsageError
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request, require_same_parts
from dedup_storage.spark.digests import function_digest

FIRST = Request.of("backfill", columns=("y",), where="user_id < 6", dates=None).with_texts(
    replacement_rows="3 rows (aa)", users="none"
)


def test_the_same_request_goes_on_and_another_is_refused_by_name() -> None:
    FIRST.require_same(FIRST.text, "b")
    other = FIRST.with_texts(replacement_rows="4 rows (bb)")
    with pytest.raises(UsageError) as told:
        other.require_same(FIRST.text, "b")
    assert str(told.value) == (
        "the run b was begun with another request: the replacement rows differ; "
        "expected replacement rows 3 rows (aa); got replacement rows 4 rows (bb). "
        "Give what it was begun with to finish it, or another run id."
    )
    with pytest.raises(UsageError, match=r"the run b published version 7 .*: the job differs; .*job write"):
        Request({**FIRST.inputs, "job": "write", "users": "2 rows (c)"}).require_same(FIRST.text, "b", 7)
    # An input left out is a difference; one that the release of then did not know is none.
    with pytest.raises(UsageError, match="the where differs"):
        Request.of("backfill", columns=("y",), where=None, dates=None).with_texts(
            replacement_rows="3 rows (aa)", users="none"
        ).require_same(FIRST.text, "b")
    Request({**FIRST.inputs, "new input": "none"}).require_same(FIRST.text, "b")


@pytest.mark.parametrize("kept", [None, "", "0123456789abcdef", "17"])
def test_runs_of_before_go_on(kept: str | None) -> None:
    FIRST.require_same(kept, "b")


class Published:
    """What ``require_same`` asks of a dataset: one version, with facts."""

    spec = SimpleNamespace(name="clicks")

    def __init__(self, **facts: str) -> None:
        self.facts = facts

    def version_of_run(self, run_id: str) -> int | None:
        return 3 if run_id == "r" else None

    def claim(self, version: int) -> dict[str, str]:
        return self.facts


@pytest.mark.parametrize(("job", "asked"), [("write", "write"), ("write", "convert"), ("maintain", "maintain")])
def test_a_version_of_before_is_taken_for_the_same_and_says_so(
    job: str, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    meta: Any = Published(job=job)
    assert require_same(meta, Request.of(asked, rows=7).text, "r") == 3
    assert caplog.messages == [
        "Version 3 of clicks does not say what the run r was asked to do: what is asked now is taken for the same, and "
        "nothing is done."
    ]
    caplog.clear()
    assert require_same(meta, Request.of(asked).text, "other") is None
    # Another verb was never the same, whatever it was asked.
    told = r"the run r published version 3 with another request: the job differs; expected job \w+; got job forget-user"
    with pytest.raises(UsageError, match=told):
        require_same(meta, Request.of("forget-user").text, "r")
    assert not caplog.messages


def test_a_version_that_says_what_it_was_asked_says_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    meta: Any = Published(job="backfill", request=FIRST.text)
    assert require_same(meta, FIRST.text, "r") == 3
    with pytest.raises(UsageError, match="the users differ"):
        require_same(meta, FIRST.with_texts(users="2 ids (bb)").text, "r")
    assert not caplog.messages


def test_parts_of_another_request_are_nobodys_else() -> None:
    parts: list[dict[str, str]] = [{"part": "a"}, {"part": "b", "request": FIRST.text}]
    require_same_parts(FIRST, parts, "r")
    require_same_parts(Request.of("maintain"), parts[:1], "r")
    with pytest.raises(UsageError, match=r"the run r was begun with another request: the job differs; .*job backfill"):
        require_same_parts(Request.of("maintain"), parts, "r")
    with pytest.raises(UsageError, match=r"the run r was begun with another request\. Give"):
        require_same_parts(FIRST, [{"request": "0123456789abcdef"}], "r")


def test_no_value_is_kept() -> None:
    text = Request.of("backfill", where="user_id = 4711", users=["anna"], mode="replace", version=3).text
    assert "4711" not in text
    assert "anna" not in text
    assert json.loads(text)["mode"] == "replace"
    assert len(text) < 1_000


PRICE = 1.0


def price(frame: Any) -> Any:
    return frame * PRICE


def nested(rate: float) -> Callable[[Any], Any]:
    def inner(frame: Any) -> Any:
        return [price(f) * rate for f in frame]

    return inner


class Scaled:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, frame: Any) -> Any:
        return frame * self.by


def made(text: str) -> Callable[..., Any]:
    """A function of a text, in this module."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(text, names)  # noqa: S102 - the text is the test's own
    return names["f"]  # type: ignore[no-any-return]


BODY = """
def helper(x):
    return x + {n}
def f(frame, k={k}):
{comment}    return helper(frame) * {c} if frame in {{'a', 'b'}} else {s!r}
"""


def body(n: int = 1, k: int = 2, c: int = 3, s: str = "x", comment: str = "") -> str:
    return BODY.format(n=n, k=k, c=c, s=s, comment=comment)


def test_a_function_is_told_by_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    same = function_digest(made(body()))
    assert same == function_digest(made(body(comment="    # a comment, and a line\n\n")))
    # Its own constants, its defaults, those of what it calls.
    others = [function_digest(made(body(**{name: 9}))) for name in ("n", "k", "c")]
    assert len({same, *others, function_digest(made(body(s="y")))}) == 5
    # Values that it closes over, and finds in its module.
    assert function_digest(nested(1.0)) == function_digest(nested(1.0)) != function_digest(nested(2.0))
    before = function_digest(price), function_digest(nested(1.0))
    monkeypatch.setattr(sys.modules[__name__], "PRICE", 2.0)
    assert function_digest(price) != before[0]
    assert function_digest(nested(1.0)) != before[1]
    assert function_digest(Scaled(1)) == function_digest(Scaled(1)) != function_digest(Scaled(2))
    assert function_digest(Scaled(1).__call__) != function_digest(Scaled(2).__call__)
    assert function_digest(partial(price, 1)) != function_digest(partial(price, 2))
    # No two lambdas of a line are alike.
    assert function_digest(lambda x: x + 1) != function_digest(lambda x: x + 2)


@pytest.mark.slow
def test_a_function_is_told_alike_in_every_process(tmp_path: Path) -> None:
    module = tmp_path / "rates.py"
    head = "import datetime, re\nAT, WORD = datetime.date(2024, 1, 1), re.compile('a+')\nG = {'b': AT, 'a': WORD}\n"
    module.write_text(head + body().replace("return helper(", "G, AT, WORD, re\n    return helper("))
    code = "from rates import f; from dedup_storage.spark.digests import function_digest; print(function_digest(f))"
    path = f"{Path.cwd()}:{tmp_path}"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(told) == 1
