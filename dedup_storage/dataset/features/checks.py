"""What is wrong with a feature group before a row of it is computed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from textwrap import dedent
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from dedup_storage.errors import DedupStorageError, InputError, SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.lake.engine.plans import is_deterministic
from dedup_storage.lake.groups import FeatureColumn, FeatureGroup, FeatureSource, SourceKind, group_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import check_name
from dedup_storage.spark.errors import ENGINE_ERRORS, translate
from dedup_storage.spark.types import ddl

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "check_group_name",
    "explained",
    "feature_columns",
    "require_columns",
    "require_same_source",
    "require_stable_key",
    "same_source",
    "unclashing",
]

_UNSTORABLE = (T.NullType, T.CalendarIntervalType, T.DayTimeIntervalType, T.YearMonthIntervalType, T.VariantType)
_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning))\b", re.MULTILINE)


def check_group_name(name: str, groups: Mapping[str, FeatureGroup], dataset: str) -> None:
    """Check a new group's name.

    Raises:
        UnsafeNameError: it could not be an identifier.
        UsageError: a group has it already.
    """
    check_name(name, "feature group's name")
    taken = {g.lower() for g in groups}
    if name.lower() in taken:
        raise UsageError(
            f"the dataset {dataset} has a feature group {name} already",
            fix="Refresh it, drop it first, or choose another name.",
        )


def feature_columns(
    spec: DatasetSpec, group: FeatureGroup, fields: Iterable[T.StructField], not_null: Iterable[str] | bool
) -> tuple[FeatureColumn, ...]:
    """The columns of a frame that are features: all but those which the group's table has beside them.

    Raises:
        SchemaError: there is none, one has a type that no table can hold, or ``not_null`` names none of them.
    """
    key = group.key(spec)
    system = group_table(spec, group.model_copy(update={"columns": ()})).columns
    features = [f for f in fields if f.name not in system]
    if not features:
        raise SchemaError("the feature group has no columns", expected=f"columns beside {', '.join(key)}")
    names = [f.name for f in features]
    chosen = set(names) if not_null is True else set() if not_null is False else set(not_null)
    for name in sorted(chosen - set(names)):
        raise SchemaError(
            f"not_null names the column {name}, which the group does not have", expected=known_names(name, names)
        )
    for field in features:
        check_name(field.name, "column name")
        if isinstance(field.dataType, _UNSTORABLE):
            raise SchemaError(
                f"the column {field.name} has a type that no table can hold",
                got=field.dataType.simpleString(),
                fix="Cast it.",
            )
    return tuple(FeatureColumn(name=f.name, type=ddl(f.dataType), not_null=f.name in chosen) for f in features)


def unclashing(meta: DatasetMetadata, group: FeatureGroup, groups: Mapping[str, FeatureGroup]) -> None:
    """Check that no other column has the name of one of the group's; those that the log has in other versions count.

    Raises:
        SchemaError: names the column and what has it.
    """
    spec = meta.spec
    taken: dict[str, str] = {}
    for version, described in sorted(meta.described.items(), reverse=True):
        taken |= {c.lower(): f"the log, in version {version}" for c in described.source_columns}
    taken |= {c.lower(): "the log" for c in (*spec.source_columns, spec.position_column, spec.event_date_column) if c}
    taken |= {g.runs_column.lower(): "the toolkit" for g in spec.events}
    for other in groups.values():
        if other.name != group.name:
            taken |= {c.lower(): f"the feature group {other.name}" for c in other.names}
    seen: set[str] = set()
    for name in group.names:
        owner = "the group itself" if name.lower() in seen else taken.get(name.lower())
        if owner is not None:
            raise SchemaError(
                f"the column {name} of the feature group {group.name} has the name of another column",
                expected="a name that no column of the dataset has",
                got=f"{name}, a column of {owner}",
                fix="Choose another name.",
            )
        seen.add(name.lower())


def require_columns(frame: DataFrame, columns: Iterable[str], group: str) -> None:
    """Check that a computed frame has the columns.

    Raises:
        UnknownColumnError: names the first that is missing.
    """
    for column in columns:
        if column not in frame.columns:
            raise UnknownColumnError(
                f"the frame of the feature group {group} has no column {column}",
                expected=known_names(column, frame.columns),
                fix="Keep the key columns of the frame that the function gets.",
            )


def require_same_source(group: FeatureGroup, source: FeatureSource) -> None:
    """Check that a source by which a part of a group is computed is the one that the rest was computed by.

    Raises:
        UsageError: it is another one.
    """
    if not same_source(group.source, source):
        raise UsageError(
            f"the feature group {group.name} was computed by another source than the one given",
            expected="the same one, where a part of the group is computed",
            fix="Compute every row with full=True, or leave the source out.",
        )


def same_source(before: FeatureSource, now: FeatureSource) -> bool:
    """Whether two sources compute the same, as far as definitions tell; frames hold other rows each time.

    Functions are compared by their text, where both have one; of a lambda it says nothing.
    """
    if before.kind is not now.kind or now.kind is SourceKind.FRAME:
        return before.kind is now.kind
    if now.kind is not SourceKind.FUNCTION:
        return before == now
    texts = [_definition(source.text) for source in (before, now)]
    return texts[0] == texts[1] if all(texts) else before.function == now.function


def _definition(text: str | None) -> str | None:
    """A function's text without what its place in a file adds; ``None`` of a lambda, whose text is that of a line."""
    text = dedent(text or "").strip()
    return text if text.startswith(("def ", "@")) else None


def require_stable_key(frame: DataFrame, key: Sequence[str], group: str) -> None:
    """Check that the key, and which keys there are, does not change from one evaluation to the next.

    Raises:
        UsageError: Spark's plan of the key columns alone holds something non-deterministic.
    """
    if not is_deterministic(frame.select(*key)):
        raise UsageError(
            f"the key of the feature group {group} is not deterministic",
            expected=f"{', '.join(key)} as the log has them",
            got="a key, or a choice of rows, that rand(), uuid() or the like decides",
            fix="Compute values from the row alone, and leave the key columns as they are.",
        )


@contextmanager
def explained(group: FeatureGroup) -> Iterator[None]:
    """Turn what a user's function or expression raised into one sentence that names it, without any row's value.

    Args:
        group: What is computed inside.

    Raises:
        InputError: it raised, when it was called or on one of the rows.
    """
    try:
        yield
    except DedupStorageError:
        raise
    except ENGINE_ERRORS as error:
        raise _engine_error(group, error) from error
    except Exception as error:
        raise InputError(
            f"the feature group {group.name} could not be computed: {_source(group)} raised {type(error).__name__}",
            fix="Nothing was published.",
        ) from error


def _source(group: FeatureGroup) -> str:
    """What a group is computed by, in words."""
    source = group.source
    if source.expressions:
        return "its expression"
    if source.function:
        return f"the function {source.function.partition(':')[2]}"
    return {"join": f"the lookup in {source.table}", "frame": "the frame"}.get(source.kind.value, "its function")


def _engine_error(group: FeatureGroup, error: Exception) -> DedupStorageError:
    """What Spark raised while a group was computed, as an error of this package."""
    text = str(error)
    raised = _RAISED.findall(text) if "Traceback" in text else []
    if raised:
        places = [p for p in _LINE.findall(text) if "pyspark" not in p[0]]
        where = f" in {places[-1][2]}, line {places[-1][1]}" if places else ""
        return InputError(
            f"the feature group {group.name} could not be computed: {_source(group)} raised "
            f"{raised[-1].rsplit('.', 1)[-1]} on a row{where}",
            fix="Nothing was published. Make it work on every row, or return null there.",
        )
    condition = _condition(error)
    if condition and not condition.startswith(_PLANNING):
        return InputError(
            f"the feature group {group.name} could not be computed: {_source(group)} failed on a row with {condition}",
            fix="Nothing was published. Use try_ functions, or return null there.",
        )
    return translate(error)


_PLANNING = ("UNRESOLVED", "TABLE_OR_VIEW", "PARSE", "FAILED_READ", "PATH_NOT", "DATATYPE_MISMATCH", "MISSING")
_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_.]{3,80})\]")


def _condition(error: Exception) -> str | None:
    """Name of Spark's error condition; its text may quote a row."""
    if not isinstance(error, PySparkException):
        return None
    conditions = _CONDITION.findall(str(error))
    return conditions[-1] if conditions else error.getCondition()
