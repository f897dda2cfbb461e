"""Frames of a version: requests, impressions, the flat log.

Needs: a handle; ``dataset.features`` for groups' columns.
Gives: frames that nothing has run yet.
May import: ``dataset.features``, ``lake``.
"""
