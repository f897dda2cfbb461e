"""A process of its own that erases users, for tests that kill it."""

from __future__ import annotations

from tests.integration.processes import run_action

# Ids that no other number looks like: the least and the greatest of the dataset's 12.
FIRST = 7_654_000
GONE = [FIRST, FIRST + 11]

if __name__ == "__main__":
    run_action({"forget": lambda ds: ds.forget_users(GONE, "gdpr")})
