"""What a dataset says of itself when it is printed: from metadata alone, no Spark job."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import DedupStorageError
from dedup_storage.lake.admin import describe
from dedup_storage.layout import TableRole
from dedup_storage.words import human_bytes

__all__ = ["dataset_text"]

_ROW_ROLES = (TableRole.REQUESTS, TableRole.IMPRESSIONS, TableRole.LOGS)


def dataset_text(handle: Handle) -> str:
    """Name, format, layout, newest version, rows, feature groups and bytes, in one line."""
    try:
        meta = handle.metadata()
        found = describe(meta, handle.tables.name, "")
    except DedupStorageError as error:
        return f"<Dataset {handle.name}: cannot be read: {error.what}>"
    rows = ", ".join(f"{table} {count:,}" for table, count in found.rows.items() if meta.role(table) in _ROW_ROLES)
    groups = f"feature groups {', '.join(found.features)}" if found.features else "no feature group"
    version = f"version {found.version} of {found.versions} kept" if found.version else "nothing written yet"
    facts = (
        f"{found.format}, {found.layout} layout",
        version,
        f"rows: {rows or 'none'}",
        groups,
        human_bytes(found.bytes),
    )
    return f"<Dataset {handle.name}: {'; '.join(facts)}>"
