"""Writing a log: collapse, stage, audit, publish.

Needs: a handle and a ``RawLog``.
Gives: ``Writer`` and its ``WriteSummary``.
May import: ``sources``, ``quality``, ``lake``; no other room of ``dataset``.
"""
