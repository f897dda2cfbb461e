"""A dataset as it stands: everything that can be asked of one, each method handed on to its room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.inspect.accessor import Inspect
from dedup_storage.dataset.inspect.text import dataset_text
from dedup_storage.dataset.joins.bucket import Exchange
from dedup_storage.dataset.joins.inputs import How
from dedup_storage.dataset.joins.tables import join_tables
from dedup_storage.dataset.read import frames
from dedup_storage.dataset.samples.frames import sampled
from dedup_storage.dataset.upkeep import ErasureProof, verify_erasure
from dedup_storage.dataset.upkeep.receipt import Receipt
from dedup_storage.dataset.versions.check import check_version
from dedup_storage.dataset.versions.publish import list_versions
from dedup_storage.errors import UsageError
from dedup_storage.lake.history import DatasetMetadata, VersionInfo
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec
from dedup_storage.quality.model import Verdict
from dedup_storage.report.draw.named import named_users
from dedup_storage.report.draw.select import DRAW_BYTES
from dedup_storage.report.estimate.baselines import ALL_LAYOUTS, BaselineLayout
from dedup_storage.report.measure import measure_dataset
from dedup_storage.report.model import Report
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import Grain, LogSchema

__all__ = ["ReadableDataset"]


class ReadableDataset:
    """What can be asked of a dataset; nothing here changes one. ``Dataset`` is it, and more.

    Attributes:
        handle: What every room takes: session, settings, description, table format.
        inspect: What it is made of, from metadata: ``files``, ``segments``, ``history``.
    """

    def __init__(self, handle: Handle) -> None:
        self._take(handle)

    def _take(self, handle: Handle) -> None:
        """Stand for what a handle says from now on."""
        self.handle, self.inspect = handle, Inspect(handle)

    def __repr__(self) -> str:
        return dataset_text(self.handle)

    @property
    def spark(self) -> SparkSession:
        """The session."""
        return self.handle.spark

    @property
    def settings(self) -> Settings:
        """Settings of the catalog."""
        return self.handle.settings

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's description."""
        return self.handle.spec

    @property
    def tables(self) -> TableFormat:
        """The dataset's table format."""
        return self.handle.tables

    @property
    def name(self) -> str:
        """Dataset name."""
        return self.handle.name

    @property
    def schema(self) -> LogSchema:
        """The log's schema with every column's grain declared."""
        return self.handle.schema

    def metadata(self) -> DatasetMetadata:
        """The dataset's tables as the catalog shows them now."""
        return self.handle.metadata()

    def requests(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """Request rows (R): the request keys and every request-grain column, in the source's types.

        In flat layout they are collapsed on reading.

        Args:
            version: ``None`` takes the newest.
            features: Feature groups whose columns come after the log's own, by name; ``None`` for all at request
                grain, ``()`` for none.
            sample: Only a named sample's requests, with ``request_weight``.
        """
        return self._rows(frames.requests, Grain.REQUEST, version, features, sample)

    def impressions(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """Impression rows (B): the request keys, the position and every impression-grain column.

        Args:
            version: ``None`` takes the newest.
            features: As for ``requests``, at impression grain.
            sample: Only a named sample's impressions, with ``impression_weight``.
        """
        return self._rows(frames.impressions, Grain.IMPRESSION, version, features, sample)

    def logs(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """The flat log (B rows), equal to the source row for row, columns in the source's order and types.

        Args:
            version: ``None`` takes the newest.
            features: Feature groups whose columns come after the source's, by name; ``None`` for all, ``()`` for none.
            sample: Only a named sample's rows, with ``impression_weight``.
        """
        return self._rows(frames.logs, None, version, features, sample)

    def _rows(
        self,
        read: Callable[[Handle, int | None, Sequence[str] | None], DataFrame],
        grain: Grain | None,
        version: int | None,
        features: Sequence[str] | None,
        sample: str | None,
    ) -> DataFrame:
        if sample is None:
            return read(self.handle, version, features)
        # The rows, and which of them are the sample's, come from one version, whatever is published in between.
        version = self.handle.cut(version).version
        return sampled(self.handle, sample, read(self.handle, version, features), grain, version)

    def join(
        self,
        left: str = "impressions",
        right: str = "requests",
        on: Sequence[str] | None = None,
        how: How | str = How.INNER,
        *,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        exchange: Exchange | str = Exchange.REFUSE,
        hash_side: str | None = None,
    ) -> DataFrame:
        """Two tables of the dataset joined inside their buckets, without moving a row.

        Args:
            left, right: Tables of the dataset, or any bucketed table by its full name.
            on: Key columns; all that both have by default: the request's keys and event date, and the position where
                both are impression-grain.
            how: ``inner``, ``left``, ``semi`` or ``anti``.
            version: ``None`` takes the newest.
            columns: Columns wanted beside the keys; all by default. What is not asked for is not read.
            exchange, hash_side: As for ``bucket_join``.

        Raises:
            ShuffleRefusedError: rows would move; says why and what to do.
        """
        return join_tables(
            self.handle, left, right, on, how, version=version, columns=columns, exchange=exchange,
            hash_side=hash_side,
        )  # fmt: skip

    def versions(self) -> list[VersionInfo]:
        """Published versions, oldest first."""
        return list_versions(self.handle)

    def verify_erasure(self, receipt: Receipt, users: Sequence[int | str] | DataFrame) -> ErasureProof:
        """Check the receipt of an erasure, and look again whether its users are in any file of a kept version.

        Args:
            receipt: As ``forget_users`` returned it, its JSON as a mapping, or the place of the JSON file.
            users: The ids as they were given then: a receipt holds none.

        Raises:
            InputError: the receipt cannot be read, is none, or was changed.
            UsageError: it is the receipt of another dataset, or of other users.
        """
        return verify_erasure(self.handle, receipt, users)

    def check(self, version: int | None = None, *, deep: bool = False) -> Verdict:
        """Prove a published version whole, and run the quality suite on it and its feature groups; gives the verdict.

        Rows of a group that a refresh would compute anyway are not judged.

        Args:
            version: ``None`` takes the newest.
            deep: Read every page of every file too: rows of each footer, checksum of each page.
        """
        return check_version(self.handle, version, deep=deep)

    def compression_report(
        self,
        version: int | None = None,
        *,
        sample: str | None = None,
        baselines: Sequence[BaselineLayout] | None = None,
        share: float | None = None,
        sample_bytes: int = DRAW_BYTES,
        columns: Sequence[str] = (),
        with_curves: bool = True,
    ) -> Report:
        """What every column of a version needs, and what the same rows would need otherwise.

        Args:
            version: ``None`` takes the newest.
            sample: Measure what else could be on a named sample's users, in place of a share of them.
            baselines: Layouts to compare with; ``None`` for all, ``()`` for footers alone.
            share: Share of the users for the baselines; ``None`` fits ``sample_bytes``.
            sample_bytes: Raw bytes of the sample as a flat log.
            columns: Report on these alone; all when empty.
            with_curves: Also measure the ratio against sequence length and candidates.

        Raises:
            UsageError: a share, a sample or a size, and no layout to measure it for; a size beside one of the others.
        """
        if baselines is not None and not tuple(baselines) and sample_bytes != DRAW_BYTES:
            raise UsageError("sample_bytes does nothing without baselines: no sample is drawn", fix="Leave it out.")
        named = None if sample is None else named_users(self.settings, self.name, sample, version)
        return measure_dataset(
            dataset_files(self.settings, self.name, version),
            baselines=ALL_LAYOUTS if baselines is None else tuple(baselines),
            share=share,
            draw_bytes=sample_bytes,
            columns=tuple(columns),
            with_curves=with_curves,
            named=named,
        )
