"""Samples of whole users: a seeded hash, allocation among strata, definitions, estimates with intervals. No Spark."""
