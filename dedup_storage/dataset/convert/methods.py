"""The method of ``Dataset`` that writes it in another form."""

from __future__ import annotations

from typing import Any

from dedup_storage.config import Settings
from dedup_storage.dataset.convert.run import Conversion
from dedup_storage.dataset.convert.summary import ConvertSummary
from dedup_storage.lake.runs import named_run
from dedup_storage.schema import check_name
from dedup_storage.spark.errors import translated

__all__ = ["ConvertMethods"]


class ConvertMethods:
    """Conversion of a dataset."""

    settings: Settings

    def convert(
        self: Any, name: str, *, format: str | None = None, run_id: str | None = None, **options: Any
    ) -> ConvertSummary:
        """Write one version into a new dataset of another layout, table format or segments.

        Args:
            name: The dataset to write.
            format: Its table format, ``iceberg`` or ``delta``; ``None`` keeps this one's.
            run_id: Name of the run. A run that was stopped goes on; one that is done verifies what is there.
            options: Of ``dedup_storage.dataset.convert.Conversion``: ``layout``, ``date_grain``, ``buckets``,
                ``version``, ``drop_features``, ``progress``.

        Raises:
            UsageError: what is asked for cannot be done; nothing was changed.
            StorageError: a part differs from its source.
        """
        check_name(name, "dataset name")
        run_id = named_run(run_id, "convert")
        with translated():
            settings = self.settings.model_copy(update={"format": format or self.settings.format})
            return Conversion(self, settings, name, run_id=run_id, **options).run()
