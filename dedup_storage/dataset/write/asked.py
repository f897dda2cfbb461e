"""What a write is asked for, told without reading a row: by where its log lies, and by its options. No Spark."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dedup_storage.config import Settings
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.lake.requests import NOTHING, Request
from dedup_storage.sources.absent import ColumnChoice, chosen_names
from dedup_storage.sources.origin import Origin

__all__ = ["by_origins", "with_options"]


def by_origins(settings: Settings, state: Callable[[str], int | None], origins: Mapping[str, Origin]) -> Request | None:
    """A log by its files (places below their folder, sizes, times of change) or its table's newest state.

    Args:
        settings: Settings of the lake.
        state: The newest state of a table of the catalog, ``namespace.table``.
        origins: ``log``, and ``impressions`` of two sources.

    Returns:
        ``None`` where one of them has neither: its rows have to be looked at.
    """
    texts = {name: _told(settings, state, origin) for name, origin in origins.items()}
    if not texts or None in texts.values():
        return None
    return Request.of("write").with_texts(**{name: str(text) for name, text in texts.items()})


def _told(settings: Settings, state: Callable[[str], int | None], origin: Origin) -> str | None:
    if origin.table is None:
        return origin.text
    prefix = f"{settings.catalog.name}."
    name = origin.table.removeprefix(prefix) if settings.has_catalog else origin.table
    found = state(name) if name.count(".") == 1 else None
    # A view, or a table of another catalog, has rows and no state that can be asked for.
    return None if found is None else f"{origin.table} at {found}"


def with_options(
    request: Request,
    mode: Mode,
    on_inconstant: OnInconstant,
    on_duplicates: OnDuplicates,
    add_columns: ColumnChoice,
    fill_columns: ColumnChoice,
) -> Request:
    """The request with the options of the write; a choice of columns that was not made is said as such."""
    choices = {"add_columns": add_columns, "fill_columns": fill_columns}
    return request.with_texts(
        mode=mode.value, on_inconstant=on_inconstant.value, on_duplicates=on_duplicates.value,
        **{option: ",".join(sorted(chosen_names(choice))) or NOTHING for option, choice in choices.items()},
    )  # fmt: skip
