"""Columns that take a dictionary: a conversion keeps what was chosen for its source, and what was tuned since."""

from __future__ import annotations

from dedup_storage.dataset.handle import Cut
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.table_properties import Dictionaries

__all__ = ["kept_dictionaries"]


def kept_dictionaries(cut: Cut) -> Dictionaries:
    """Table -> columns that its properties give a dictionary: sequence columns, and of events each of their columns.

    A list without a property has none, as in a new table; a column of events without one has what writers do unasked.

    Args:
        cut: The dataset.
    """
    spec = cut.spec
    stored = {t.name: t for t in dataset_files(cut.handle.settings, cut.handle.name, version=cut.version).tables}
    found = {}
    for table in spec.tables:
        encoding = Encoding.from_properties(stored[table.name].properties)
        group = spec.event_group(table.name)
        if group is None:
            found[table.name] = [c for c in spec.schema_.sequence_columns if encoding.columns.get(c)]
        else:
            found[table.name] = [c for c in group.columns if encoding.uses_dictionary(c)]
    return found
