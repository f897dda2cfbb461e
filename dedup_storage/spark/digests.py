"""Inputs of a run in short texts: rows by their number and an order-free hash, functions by what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from hashlib import sha256
from io import BytesIO
from pickle import Pickler
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import ddl, fingerprint
from dedup_storage.words import counted

__all__ = ["function_digest", "rows_digest"]

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis))


def rows_digest(frame: DataFrame, columns: Iterable[str] | None = None, *, strict: bool = True) -> str:
    """A frame's rows as a text that is equal for equal rows, whatever their order; one pass.

    Args:
        frame: The rows.
        columns: The columns that count; all by default, whatever their order.
        strict: Tell the places of nulls inside lists apart too; slower for long lists.

    Example: ``3,375 rows (8a41…)``
    """
    rows = frame.select(*sorted(frame.columns if columns is None else columns))
    fields = rows.schema.fields
    total = F.sum(fingerprint(fields, strict=strict).cast("decimal(38,0)"))
    row = only_row(rows.agg(F.count(F.lit(1)).alias("n"), total.alias("sum")))
    named = [f"{field.name} {ddl(field.dataType)}" for field in fields]
    return f"{counted(int(row['n']), 'row')} ({_hex('|'.join([*named, str(row['sum'])]))})"


def function_digest(function: Callable[..., Any]) -> str:
    """A function as a text: its name, and a digest of its code, constants, defaults, and the values that it closes over
    or finds in its module. What it calls of its own package counts with its code, what others made by name alone.

    Example: ``add_price (8a41…)``
    """
    teller = _Teller((getattr(function, "__module__", None) or "").partition(".")[0])
    teller.tell(function)
    return f"{getattr(function, '__name__', type(function).__name__)} ({_hex('|'.join(teller.parts))})"


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


class _Teller:
    """Collects what tells a value from others, the same in every process.

    Args:
        package: Package whose functions and classes are looked into.

    Attributes:
        parts: What was told.
    """

    def __init__(self, package: str) -> None:
        self.package, self.parts = package, list[str]()
        # Kept alive, so that no other object gets their ids.
        self._seen: dict[int, Any] = {}

    def _own(self, value: Any) -> bool:
        return (getattr(value, "__module__", None) or "").partition(".")[0] == self.package

    def tell(self, value: Any) -> None:
        """Append what tells a value."""
        if isinstance(value, _PLAIN):
            self.parts.append(f"{type(value).__name__} {value!r}")
        elif isinstance(value, tuple):
            self.parts.append(f"tuple of {len(value)}")
            for element in value:
                self.tell(element)
        elif isinstance(value, Set):
            self.parts.append(f"set {sorted(map(repr, value))}")
        elif id(value) in self._seen:
            self.parts.append("again")
        else:
            self._seen[id(value)] = value
            self._tell_new(value)

    def _tell_new(self, value: Any) -> None:
        if isinstance(value, CodeType):
            # Line numbers and file names tell of the text, not of what it does.
            self.parts.append(f"code {value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars}")
            self.tell(value.co_consts)
        elif isinstance(value, FunctionType):
            self._tell_function(value)
        elif isinstance(value, MethodType):
            self.tell((value.__func__, value.__self__))
        elif isinstance(value, partial):
            self.tell((value.func, value.args, value.keywords))
        elif isinstance(value, DataFrame):
            self.parts.append(rows_digest(value))
        elif isinstance(value, Column):
            self.parts.append(f"column {value}")
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self.tell((key, value[key]))
        elif isinstance(value, list):
            self.tell(tuple(value))
        elif isinstance(value, type):
            self.parts.append(f"class {value.__module__}.{value.__qualname__}")
            if self._own(value):
                self.tell({k: v for k, v in vars(value).items() if isinstance(v, FunctionType)})
        elif isinstance(value, (ModuleType, BuiltinFunctionType)):
            self.parts.append(f"{getattr(value, '__module__', '')}.{value.__name__}")
        else:
            self._tell_object(value)

    def _tell_function(self, function: FunctionType) -> None:
        self.parts.append(f"function {function.__module__}.{function.__qualname__}")
        # A user function of Spark carries what it wraps.
        self.tell(getattr(function, "func", None))
        if not self._own(function):
            return
        self.tell((function.__code__, function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            # A cell is empty until the function that it names is made.
            self.tell(cell.cell_contents if cell != CellType() else None)
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.tell((name, function.__globals__[name]))

    def _tell_object(self, value: Any) -> None:
        kind = type(value)
        self.tell(kind)
        if callable(func := getattr(value, "func", None)):
            self.tell(func)
        elif self._own(kind):
            self.tell(dict(getattr(value, "__dict__", None) or {}))
        else:
            self.parts.append(_pickled(value))


def _names(code: CodeType) -> list[str]:
    """Names that a code and those inside it look up."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _pickled(value: Any) -> str:
    """A digest of a value of somebody else's class; nothing of one that is no value, such as a session or a lock."""
    written = BytesIO()
    pickler = Pickler(written, protocol=4)
    # Without a memo equal values are written alike, whether or not they are one object.
    pickler.fast = True
    try:
        pickler.dump(value)
    except Exception:  # noqa: BLE001 - classes refuse in whatever way they like
        return ""
    return sha256(written.getvalue()).hexdigest()
