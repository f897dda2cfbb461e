"""A process of its own that works on the feature group ``age``, for tests that kill it."""

from __future__ import annotations

from tests.integration.processes import run_action

if __name__ == "__main__":
    run_action(
        {
            "add": lambda ds: ds.features.add("age", {"length": "size(hist)"}, run_id="add", gate=False),
            "refresh": lambda ds: ds.features.refresh("age", run_id="refresh", gate=False),
            "promote": lambda ds: ds.features.promote("age", run_id="promote"),
        }
    )
