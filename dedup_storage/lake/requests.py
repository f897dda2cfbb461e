"""What a run was asked to do, as short texts that can be compared: a run id stands for one request.

The texts are kept with a run's parts and with its version. They hold counts and digests, never values: user ids in a
condition would outlive their erasure. Runs of before kept none, and go on as they did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from dedup_storage.errors import UsageError

__all__ = ["NOTHING", "REQUEST", "Request", "begun_otherwise", "require_same_parts", "short_digest"]

# The fact that keeps it.
REQUEST = "request"
# An input that was not given; said all the same, so that an input of later releases is told from one left out.
NOTHING = "none"


def short_digest(*texts: str) -> str:
    """A short text that differs between different texts."""
    return sha256("\n".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Request:
    """What a run was asked to do.

    Attributes:
        inputs: Name of an input, as messages say it -> what it is, in a short text.
    """

    inputs: Mapping[str, str]

    @classmethod
    def of(cls, job: str, **inputs: object) -> Request:
        """A request of plain values.

        Args:
            job: Name of the job.
            inputs: Input, words joined by ``_`` -> value; what is empty counts as not given. Texts and numbers that
                name things of the dataset are kept as they are, up to some length; all else as a digest.
        """
        return cls({"job": job, **{name.replace("_", " "): _told(value) for name, value in inputs.items()}})

    @classmethod
    def from_text(cls, text: str | None) -> Request | None:
        """The request that a fact keeps; ``None`` where nobody wrote one down, or an earlier release as a digest."""
        try:
            found = json.loads(text or "null")
        except ValueError:
            return None
        return cls(found) if isinstance(found, dict) else None

    def with_texts(self, **inputs: str) -> Request:
        """The request with inputs whose texts are made already."""
        return Request({**self.inputs, **{name.replace("_", " "): text for name, text in inputs.items()}})

    def only(self, names: Iterable[str]) -> Request:
        """The request as far as it has inputs of these names."""
        return Request({name: self.inputs[name] for name in names if name in self.inputs})

    @property
    def text(self) -> str:
        """As a fact."""
        return json.dumps(dict(self.inputs), sort_keys=True)

    @property
    def facts(self) -> dict[str, str]:
        """What a version keeps."""
        return {REQUEST: self.text}

    def require_same(
        self, kept: str | None, run_id: str, version: int | None = None, *, finished: bool = False
    ) -> None:
        """Refuse to take another request for this one.

        Args:
            kept: What the run was asked at first; ``None``, or a text of another kind, when nobody wrote it down.
            run_id: The run.
            version: The version it published; ``None`` while it is under way, and where it published none.
            finished: Whether it is done, also without a version of its own.

        Raises:
            UsageError: names the inputs that differ.
        """
        before = Request.from_text(kept)
        if before is None:
            return
        names = [name for name, text in before.inputs.items() if self.inputs.get(name) != text]
        if not names:
            return
        # The inputs of different jobs do not compare.
        names = ["job"] if "job" in names else names
        done = f"published version {version}" if version is not None else "was done" if finished else "was begun"
        under_way = version is None and not finished
        fix = "Give what it was begun with to finish it" if under_way else "Nothing was done. Give what it had"
        raise UsageError(
            f"the run {run_id} {done} with another request: the {_listed(names)} {_differ(names)}",
            expected=_values(names, before.inputs),
            got=_values(names, self.inputs),
            fix=f"{fix}, or another run id.",
        )


def require_same_parts(asked: Request, parts: Iterable[Mapping[str, str]], run_id: str) -> None:
    """Refuse to go on with, or to take away, finished parts of another request under the same run id.

    Args:
        asked: What is asked now.
        parts: Facts of the run's finished parts; those that say nothing of a request are taken for the same.
        run_id: The run.

    Raises:
        UsageError: names the inputs that differ, or says that a part is of another request.
    """
    for kept in {text: None for facts in parts if (text := facts.get(REQUEST)) is not None}:
        asked.require_same(kept, run_id)
        if Request.from_text(kept) is None:
            raise begun_otherwise(run_id)


def begun_otherwise(run_id: str) -> UsageError:
    """The error for a run whose parts an earlier release wrote for another request, as a digest alone."""
    return UsageError(
        f"the run {run_id} was begun with another request",
        fix="Give what it was begun with to finish it, or another run id.",
    )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _differ(names: list[str]) -> str:
    return "differ" if len(names) > 1 or names[0].endswith("s") else "differs"


def _values(names: Iterable[str], inputs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {inputs.get(name, NOTHING)}" for name in names)


def _told(value: object) -> str:
    if value is None or (isinstance(value, (str, Mapping, tuple, list)) and not value):
        return NOTHING
    if isinstance(value, (bool, int)):
        return str(value).lower()
    if isinstance(value, str) and len(value) <= 60 and value.replace("_", "").replace("-", "").isalnum():
        return value
    return f"({short_digest(json.dumps(value, sort_keys=True, default=str))})"
