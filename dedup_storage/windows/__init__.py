"""Where the lists that requests were logged with stand in one list of each user: found, kept, given back exactly.

Needs: NumPy and pyarrow.
Gives: functions of arrays, without state; ``match`` and ``rebuild`` are inverse to each other.
May import: ``dedup``.
"""

from __future__ import annotations

from dedup_storage.windows.match import match
from dedup_storage.windows.model import Events, Lists, Memory, Rules, Windows
from dedup_storage.windows.rebuild import events_after, rebuild

__all__ = ["Events", "Lists", "Memory", "Rules", "Windows", "events_after", "match", "rebuild"]
