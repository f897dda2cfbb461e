"""Samples of whole users in Spark: making, storing and reading them, and what they say."""
