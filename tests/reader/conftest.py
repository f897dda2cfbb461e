"""A lake of its own for the reader's tests; no Spark."""

from __future__ import annotations

import pytest

from dedup_storage.config import Settings
from tests.reader.lake import Lake


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Writes datasets by PyIceberg into an embedded catalog."""
    return Lake(Settings(warehouse=str(tmp_path_factory.mktemp("reader") / "warehouse")))
