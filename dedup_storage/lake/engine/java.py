"""Java's and Scala's values, walked from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["declares", "elements", "has_class", "has_method", "iterate"]


def elements(sequence: Any) -> list[Any]:
    """A Scala sequence's elements."""
    return [sequence.apply(i) for i in range(sequence.size())]


def iterate(iterable: Any) -> Iterator[Any]:
    """Elements of anything that has an iterator."""
    iterator = iterable.iterator()
    while iterator.hasNext():
        yield iterator.next()


def has_class(jvm: Any, name: str) -> bool:
    """Whether Java finds a class, looked for as Spark's own are; nothing of it is run."""
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    return loader.getResource(name.replace(".", "/") + ".class") is not None


def has_method(java: Any, name: str) -> bool:
    """Whether a Java object has a public method of that name."""
    return any(str(method.getName()) == name for method in java.getClass().getMethods())


def declares(java: Any, name: str) -> bool:
    """Whether a Java object has a method of that name, public or not: Py4J calls both."""
    kind = java.getClass()
    while kind is not None:
        if any(str(method.getName()) == name for method in kind.getDeclaredMethods()):
            return True
        kind = kind.getSuperclass()
    return False
