"""Whether what is given for a dataset is what the dataset is: its layout, its segments, the meaning of its columns.
No Spark."""

from __future__ import annotations

from collections.abc import Collection

from dedup_storage.errors import DatasetExistsError, UsageError
from dedup_storage.layout import DatasetSpec, EpochGrain, Layout
from dedup_storage.schema import DateGrain, LogSchema

__all__ = ["fits", "refuse_epochs", "refuse_layout", "refuse_schema", "with_units"]

_ROLES = (
    "user", "request", "item", "event_time", "time_unit", "position", "sequences", "labels", "checks", "columns"
)  # fmt: skip


def refuse_layout(
    spec: DatasetSpec,
    layout: Layout | None,
    grain: DateGrain | None,
    buckets: int | None,
    epochs: EpochGrain | None = None,
) -> None:
    """Refuse a layout or segments that the dataset does not have; ``None`` stands for what it has.

    Raises:
        DatasetExistsError: names the setting.
        UsageError: epochs for a dataset without.
    """
    refuse_epochs(spec.name, layout or spec.layout, spec.schema_, epochs)
    asked = {
        "layout": (layout, spec.layout),
        "date_grain": (grain, spec.date_grain),
        "buckets": (buckets, spec.buckets),
        # Where no list is a window no events are stored, and epochs say nothing.
        "epoch_grain": (epochs, spec.told_epochs or epochs),
    }
    for setting, (value, stored) in asked.items():
        if value is not None and value != stored:
            raise DatasetExistsError(
                f"the dataset {spec.name} exists with another {setting}",
                expected=str(value),
                got=str(stored),
                fix="Leave it out to write into the dataset as it is, or choose another name.",
            )


def refuse_epochs(name: str, layout: Layout, schema: LogSchema, epochs: EpochGrain | None) -> None:
    """Refuse epochs where nothing has any.

    Raises:
        UsageError: the layout is not ``user``, or the log has no event time.
    """
    if epochs is None or (layout is Layout.USER and (epochs is EpochGrain.NONE or schema.event_time)):
        return
    if layout is not Layout.USER:
        raise UsageError(
            f"an epoch grain for the dataset {name} says nothing: only layout user stores events",
            expected=f"layout {Layout.USER.value}",
            got=f"layout {layout.value}",
            fix="Leave the epoch grain out, or choose layout user.",
        )
    raise UsageError(
        f"events of the dataset {name} cannot be partitioned by the {epochs.value} of their first appearance",
        expected="event_time in the schema",
        got="no event time",
        fix=f"Name the event time, or choose the epoch grain {EpochGrain.NONE.value}.",
    )


def refuse_schema(spec: DatasetSpec, schema: LogSchema, shared: Collection[str]) -> None:
    """Refuse another meaning of columns that both the dataset and the log have; of others it counts when they are
    added.

    Raises:
        DatasetExistsError: names the role.
    """
    for role in _ROLES:
        stored, asked = getattr(spec.schema_, role), getattr(schema, role)
        if role == "columns":
            known = spec.schema_.declared_grains()
            stored = {c: known[c].value for c in asked if c in known and known[c] is not asked[c]}
            asked = {c: asked[c].value for c in stored}
        if role == "time_unit" and asked is None:
            continue
        if role == "sequences":
            asked = tuple(s for s in with_units(schema, spec.schema_).sequences if s.column in shared)
            stored = tuple(s for s in stored if s.column in shared)
        if role == "labels":
            stored, asked = (tuple(c for c in names if c in shared) for names in (stored, asked))
        if role == "checks":
            stored, asked = ({c: check for c, check in told.items() if c in shared} for told in (stored, asked))
        if stored != asked:
            raise DatasetExistsError(
                f"the dataset {spec.name} exists with another {role}",
                expected=str(asked),
                got=str(stored),
                fix="Correct the schema file, or choose another name.",
            )


def with_units(schema: LogSchema, other: LogSchema) -> LogSchema:
    """The schema, units of times that it leaves open taken from another."""
    units = {s.column: s.unit for s in other.sequences}
    sequences = tuple(
        s.model_copy(update={"unit": units.get(s.column)}) if s.times and s.unit is None else s
        for s in schema.sequences
    )
    return schema.model_copy(update={"time_unit": schema.time_unit or other.time_unit, "sequences": sequences})


def fits(spec: DatasetSpec, schema: LogSchema) -> bool:
    """Whether a schema means by all of a dataset's columns what the dataset does."""
    try:
        refuse_schema(spec, schema, spec.types)
    except DatasetExistsError:
        return False
    return True
