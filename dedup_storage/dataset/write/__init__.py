"""Writing a log: collapse, stage, audit, publish.

Needs: a handle and a ``RawLog``.
Gives: ``write_log`` and its ``WriteSummary``; ``create_dataset`` for logs like one at hand.
May import: ``sources``, ``quality``, ``lake``; no other room of ``dataset``.
"""
