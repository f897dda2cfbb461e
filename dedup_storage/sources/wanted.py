"""What a log's schema says about the columns of its sources. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dedup_storage.forms import JsonForm, TextForm
from dedup_storage.schema import LogSchema
from dedup_storage.sources.columns import Wanted
from dedup_storage.sources.declared import declared_types, refuse_unkept

__all__ = ["wanted_columns"]


def wanted_columns(schema: LogSchema, types: Mapping[str, str] | None = None) -> Wanted:
    """What to ask of a source: keys stay the texts that they are, 64-bit unsigned ones become signed where they fit.

    Args:
        schema: The log's schema, whose types come first.
        types: Column -> Spark DDL type of the dataset that the rows go into.

    Raises:
        SchemaError: a type of the schema is none, or, of a log that goes into no dataset yet, one that is not kept.
    """
    if types is None:
        refuse_unkept(schema.types)
    stated = declared_types({**(types or {}), **schema.types})
    keys, made = (*schema.request_key, schema.item), set(schema.made_by_forms) - set(schema.forms)
    times = () if schema.event_time is None else (schema.event_time,)
    needed = tuple(c for c in keys if c not in made and (not schema.candidates or c in schema.request_key))
    # What a form reads is a text until it has been read, also where every list has one number.
    texts = tuple(c for c, form in schema.forms.items() if isinstance(form, (TextForm, JsonForm)))
    known = {c: kind for c, kind in stated.items() if c not in schema.forms}
    # The time of an event may be its request's key.
    kept, wide = (*(c for c in keys if c not in times), *texts), (*schema.request, schema.item)
    return Wanted(needed=needed, texts=kept, whole=keys, wide=wide, times=times, types=known, header=schema.header)
