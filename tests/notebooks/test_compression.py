"""The compression notebook runs from top to bottom, defines nothing reusable, and is stored without outputs."""

from __future__ import annotations

import pytest

from tests.notebooks.running import assert_clean, outputs


def test_stored_without_outputs_and_definitions() -> None:
    assert_clean("compression")


@pytest.mark.slow
def test_runs_from_top_to_bottom() -> None:
    found = outputs("compression")
    assert sum("image/png" in o.get("data", {}) for o in found) == 3
    assert any("write.parquet" in str(o.get("data", {})) or "{}" in str(o.get("data", {})) for o in found)
