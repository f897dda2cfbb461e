"""How columns of published logs are written, where they are no plain columns.

    models    a model for each form        rules    what forms are together, beside the roles of their columns

Needs: pydantic.
Gives: the forms, ``made_columns``, ``first_read``, ``check_forms``.
May import: nothing of the toolkit.
"""

from dedup_storage.forms.models import (
    BLANKS,
    Absent,
    At,
    ChosenForm,
    ColumnsForm,
    ElementType,
    JsonForm,
    JsonType,
    ListForm,
    Order,
    Padding,
    PairsForm,
    RawForm,
    Side,
    SplitForm,
    TextForm,
)
from dedup_storage.forms.rules import check_forms, first_read, made_columns

__all__ = [
    "BLANKS",
    "Absent",
    "At",
    "ChosenForm",
    "ColumnsForm",
    "ElementType",
    "JsonForm",
    "JsonType",
    "ListForm",
    "Order",
    "Padding",
    "PairsForm",
    "RawForm",
    "Side",
    "SplitForm",
    "TextForm",
    "check_forms",
    "first_read",
    "made_columns",
]
