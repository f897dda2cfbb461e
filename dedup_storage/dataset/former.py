"""Methods of ``Dataset`` by the names that they had in the first release."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["former_method"]

# Former name -> accessor and method.
_FORMER = {
    "add_features": ("features", "add"),
    "refresh_features": ("features", "refresh"),
    "rename_features": ("features", "rename"),
    "drop_features": ("features", "drop"),
    "promote_features": ("features", "promote"),
    "sample": ("samples", "make"),
    "split_samples": ("samples", "split"),
    "describe_sample": ("samples", "describe"),
    "refresh_sample": ("samples", "refresh"),
    "drop_sample": ("samples", "drop"),
    "sample_users": ("samples", "users"),
    "plan_sample": ("samples", "plan"),
    "sample_report": ("samples", "report"),
    "materialise_sample": ("samples", "materialise"),
}


def former_method(dataset: Any, name: str) -> Any:
    """The method of an accessor that a former name stands for; what ``Dataset`` looks up when it lacks an attribute.

    Raises:
        AttributeError: the name never was one.
    """
    if name not in _FORMER:
        raise AttributeError(f"{type(dataset).__name__!r} object has no attribute {name!r}")
    accessor, method = _FORMER[name]
    warnings.warn(f"Dataset.{name} is now Dataset.{accessor}.{method}", DeprecationWarning, stacklevel=2)
    return getattr(getattr(dataset, accessor), method)
