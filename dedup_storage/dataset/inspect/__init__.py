"""A look at what a dataset is made of, from metadata alone.

Needs: a handle.
Gives: ``accessor.Inspect``: files, segments, history.
May import: ``lake``; no other room of ``dataset``.
"""
