"""The secrets of a configuration, so that no text shows them. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote_plus

from dedup_storage.config import Settings
from dedup_storage.secrets import is_secret_name

__all__ = ["secrets_of"]

# A shorter one cannot be told from the words around it.
_SHORTEST_SECRET = 4


def secrets_of(settings: Settings, environ: Mapping[str, str] | None = None) -> set[str]:
    """Texts of some settings and of the environment that nobody may see, in every form."""
    catalog, environ = settings.catalog, os.environ if environ is None else environ
    own = (catalog.password, catalog.token, catalog.credential)
    found = {secret.get_secret_value() for secret in own if secret is not None}
    if catalog.credential is not None:
        # The part behind the client's name.
        found.add(catalog.credential.get_secret_value().partition(":")[2])
    found |= set(settings.lineage.secrets)
    for values in (catalog.properties, settings.spark.conf, environ):
        found |= {value for key, value in values.items() if is_secret_name(key)}
    found = {text for text in found if len(text) >= _SHORTEST_SECRET and text.lower() not in ("true", "false")}
    # As addresses and as Python spell them.
    return found | {form for text in found for form in (quote_plus(text), text.strip(), ascii(text.encode())[2:-1])}
