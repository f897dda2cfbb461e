"""What a log could mean, with the reasons; pieces that several modules of the room share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from dedup_storage.forms import ListForm, RawForm

__all__ = ["FORMS", "NEEDED", "Proposal", "names_of", "with_more"]

FORMS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, RawForm])
# Roles that a schema cannot be without.
NEEDED = ("user", "request", "item")


@dataclass
class Proposal:
    """What a log could mean.

    Attributes:
        values: Keys of a schema file; some of ``NEEDED`` may be missing.
        reasons: Key of the file -> why, a sentence each.
        unsure: Roles and columns that the rows leave open -> what is not sure.
        unfit: Role that was not found -> a column that has its name and another type than it needs, in words.
        times: Column of a list -> unit of its numbers; ``None`` for timestamps.
    """

    values: dict[str, Any]
    reasons: dict[str, list[str]] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    times: dict[str, str | None] = field(default_factory=dict)

    def because(self, key: str, reason: str) -> None:
        """Note a reason."""
        self.reasons.setdefault(key, []).append(reason)

    @property
    def missing(self) -> list[str]:
        """Roles that were not found."""
        return [role for role in NEEDED if not self.values.get(role)]


def names_of(told: Any) -> Sequence[str]:
    """Columns that a key of a schema file names."""
    if isinstance(told, Mapping):
        return [told["column"]] if "column" in told else []
    return [told] if isinstance(told, str) else list(told or ())


def with_more(form: Any, **more: Any) -> Any:
    """A form, or none, with more keys."""
    told = form.model_dump(mode="json", exclude_defaults=True, by_alias=True) if isinstance(form, ListForm) else form
    return FORMS.validate_python({"_": {**(told or {}), **more}})["_"]
