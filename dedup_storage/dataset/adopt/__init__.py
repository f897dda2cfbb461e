"""Adoption of a log that is there: a dataset in flat layout over the files as they lie.

Needs: a session, settings, the schema and the place of the log.
Gives: ``adopt`` and its ``AdoptSummary``.
May import: ``report``, ``sources``, ``lake``; no other room of ``dataset``.
"""

from __future__ import annotations

from dedup_storage.dataset.adopt.run import AdoptSummary, adopt

__all__ = ["AdoptSummary", "adopt"]
