"""Inputs of every kind: what is stored is what came in, exactly or not at all."""
