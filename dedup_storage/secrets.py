"""What nobody may see: names under which secrets stand, addresses that hold some, texts without them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

__all__ = ["SECRET_NAME", "hidden", "holds_secret", "is_secret_name", "secrets_in"]

# In any case and however words are joined: of catalogs, stores, Spark, headers of requests, lineage receivers. Spark's
# redaction takes the same text.
SECRET_NAME = "(?i)" + "|".join(
    (
        "secret", "passw(or)?d", "token", "credential", "authori[sz]ation", "jaas[-_.]?config", "cookie",
        "(^|[^a-z])sas([^a-z]|$)", "(access|account|shared|api|private|sse|encryption)[-_.]?key",
        "connection[-_.]?string",
    )
)  # fmt: skip
_NAME = re.compile(SECRET_NAME)
# Names that only seem to tell one: when a token ends, where or in which way tokens are had.
_PLAIN = re.compile(r"(?i)expires?[-_.]?(at|in)|(ur[il]|endpoint|enabled|provider|type|class|path|file|location)$")
# A user and a password before the host; of digits and a slash it is a port.
_LOGIN = re.compile(r"(://)[^/@:\s\[]*:(?!\d+(?:/|$))[^\s@]*@")
# A field of an address's query that names a secret or signs the address.
_QUERY = re.compile(
    r"([?&;][^=&?;\s]*(?:secret|passw(?:or)?d|token|credential|key|signature|[?&;]sig)=)[^&;\s'\"]+", re.I
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under a name is a secret."""
    return _NAME.search(name) is not None and _PLAIN.search(name) is None


def holds_secret(address: str) -> bool:
    """Whether an address holds a password, a key or a signature.

    Example: ``holds_secret("postgresql://me:pw@db/iceberg")`` -> ``True``
    """
    return _LOGIN.search(address) is not None or _QUERY.search(address) is not None


def hidden(text: str, secrets: Collection[str] = ()) -> str:
    """A text without secrets.

    Args:
        text: As somebody wrote it.
        secrets: What may not stand in it; the logins and signatures of addresses never do.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def secrets_in(values: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Secrets among OpenLineage's own settings, by their name or inside an address: where they stand, and what."""
    for key, value in values.items():
        here = f"{place}.{key}"
        if isinstance(value, list):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from secrets_in(value, here)
        elif is_secret_name(str(key)) or (isinstance(value, str) and holds_secret(value)):
            yield here, value
