"""Raw logs and other inputs from outside, before they are a dataset.

Needs: ``schema``, ``lake``, ``spark``.
Gives: ``RawLog``, the grains and schema that a log suggests, users and rows named on a command line.
May import: ``lake`` and below.
"""
