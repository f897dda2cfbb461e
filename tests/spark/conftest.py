"""REST catalogs of this process, for the Spark tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dedup_storage.config import CatalogSettings, Settings
from tests.rest_catalog import RestCatalog

__all__ = ["Serve", "serve"]

Serve = Callable[..., tuple[RestCatalog, Settings]]


@pytest.fixture
def serve(settings: Settings, tmp_path: Path, name: str) -> Iterator[Serve]:
    """Starts a REST catalog and gives the settings of a lake in it."""
    with ExitStack() as servers:

        def serving(**flaws: Any) -> tuple[RestCatalog, Settings]:
            server = servers.enter_context(RestCatalog(tmp_path / "rest", **flaws))
            catalog = CatalogSettings(name=f"rest_{name}", type="rest", uri=server.uri)
            quality = settings.quality.model_copy(update={"docs": str(tmp_path / "verdicts")})
            update = {"warehouse": str(tmp_path / "rest"), "catalog": catalog, "quality": quality}
            return server, settings.model_copy(update=update)

        yield serving
