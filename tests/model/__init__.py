"""The publication protocol as an explicit-state model: every interleaving of a few actors, every crash."""
