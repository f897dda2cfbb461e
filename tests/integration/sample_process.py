"""A process of its own that makes, refreshes or drops the named sample ``half``, for tests that kill it."""

from __future__ import annotations

from tests.integration.processes import run_action

# Half of the users of each country, whose strata are stored.
SPEC = {"fraction": 0.5, "seed": 3, "strata": [{"name": "country", "column": "country"}]}

if __name__ == "__main__":
    run_action(
        {
            "make": lambda ds: ds.samples.make("half", SPEC),
            "refresh": lambda ds: ds.samples.refresh("half"),
            "drop": lambda ds: ds.samples.drop("half"),
        }
    )
