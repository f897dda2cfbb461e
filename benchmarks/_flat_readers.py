"""The flat log read as its users would: PyArrow datasets, Hugging Face datasets, Lance and MosaicML Streaming.

Every reader goes through a DataLoader and delivers dictionaries of tensors: plain columns as they are, a list column
as values and offsets. None of them shuffles, which spares them work that ours does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

__all__ = ["COLUMNS", "FlatLog", "FlatReader", "Mosaic", "mosaic_python"]

COLUMNS = ("user_id", "request_id", "request_time", "hist_item_ids", "item_id", "price", "label")


class FlatReader:
    """One way to read the flat log.

    Args:
        name: For the table.
        place: What it reads from.
        epoch: Reads everything once and returns the number of rows.
    """

    def __init__(self, name: str, place: Path, epoch: Callable[[], int]) -> None:
        self.name, self.place, self.epoch = name, place, epoch

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk of what it reads from."""
        return sum(f.stat().st_size for f in self.place.rglob("*") if f.is_file())


def tensors(batch: pa.RecordBatch) -> dict[str, torch.Tensor]:
    """The columns of a batch as tensors; nothing is copied that Arrow holds in one piece."""
    found = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            found[name] = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False))
            found[f"{name}.offsets"] = torch.from_numpy(column.offsets.to_numpy())
        else:
            plain = column.cast(pa.int64()) if pa.types.is_temporal(column.type) else column
            found[name] = torch.from_numpy(plain.to_numpy(zero_copy_only=False))
    return found


class _Batches(IterableDataset[dict[str, torch.Tensor]]):
    """Record batches as tensors; each worker takes its share of ``open_share(worker, workers)``."""

    def __init__(self, open_share: Callable[[int, int], Iterator[pa.RecordBatch]], own: bool) -> None:
        super().__init__()
        self._open, self._own = open_share, own

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        share = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in self._open(*share):
            made = tensors(batch)
            # Rows of a mapped file are no batch yet: they must be read before they can be sent anywhere.
            yield {name: t.clone() for name, t in made.items()} if self._own else made


class _PyArrow:
    def __init__(self, files: list[str], batch_size: int) -> None:
        self.files, self.batch_size = files, batch_size

    def __call__(self, worker: int, workers: int) -> Iterator[pa.RecordBatch]:
        data = pads.dataset(self.files[worker::workers], format="parquet")
        yield from data.to_batches(columns=list(COLUMNS), batch_size=self.batch_size)


class _HuggingFace:
    """``load_dataset`` of the Parquet files: streaming, or mapped from the Arrow cache that it writes first."""

    def __init__(self, files: list[str], batch_size: int, cache: Path, streaming: bool) -> None:
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        self.batch_size = batch_size
        loaded = load_dataset(
            "parquet", data_files=files, split="train", streaming=streaming, cache_dir=str(cache), columns=list(COLUMNS)
        )
        self.data: Any = loaded.with_format("arrow")

    def __call__(self, worker: int, workers: int) -> Iterator[pa.RecordBatch]:
        share = self.data.shard(num_shards=workers, index=worker) if workers > 1 else self.data
        for table in share.iter(batch_size=self.batch_size):
            yield from table.combine_chunks().to_batches()


class _Lance:
    def __init__(self, place: Path, batch_size: int) -> None:
        self.place, self.batch_size = place, batch_size

    def __call__(self, worker: int, workers: int) -> Iterator[pa.RecordBatch]:
        import lance

        data = lance.dataset(str(self.place))
        fragments = data.get_fragments()[worker::workers]
        yield from data.scanner(columns=list(COLUMNS), batch_size=self.batch_size, fragments=fragments).to_batches()


def _rows(batch: dict[str, torch.Tensor]) -> int:
    return len(batch["item_id"])


def _loader(source: Any, workers: int, *, own: bool = False, spawn: bool = False) -> Callable[[], int]:
    context = "spawn" if spawn and workers else None
    loader = DataLoader(
        _Batches(source, own),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
    )
    return lambda: sum(map(_rows, loader))


class Mosaic:
    """MosaicML Streaming in an interpreter of its own, since it asks for an older NumPy than this one has."""

    def __init__(self, python: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("_mosaicml.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )

    def ask(self, *task: str | int) -> int:
        """Have a task done there; its number of rows."""
        asked, answered = self._pipes()
        asked.write(json.dumps(task) + "\n")
        asked.flush()
        answer = answered.readline()
        if not answer:
            self._process.wait(timeout=30)
            self._errors.seek(0)
            raise RuntimeError(f"MosaicML Streaming's process ended: {self._errors.read()[-2000:]}")
        return int(answer)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End it."""
        self._pipes()[0].close()
        self._process.wait(timeout=30)
        self._errors.close()


def mosaic_python() -> str | None:
    """An interpreter that has MosaicML Streaming: ``$MOSAICML_PYTHON``, or this one."""
    if python := os.environ.get("MOSAICML_PYTHON"):
        return python
    return sys.executable if find_spec("streaming") is not None else None


class FlatLog:
    """The flat log in the form of each reader; what is written once serves every number of workers.

    Args:
        log: Directory of the log's Parquet files.
        place: Directory for the other forms.
        batch_size: Impressions of a batch.
        mosaic: MosaicML Streaming, where it is installed.
    """

    def __init__(self, log: Path, place: Path, batch_size: int, mosaic: Mosaic | None) -> None:
        self.log, self.place, self.batch_size, self.mosaic = log, place, batch_size, mosaic
        self.files = sorted(map(str, log.glob("*.parquet")))
        self.rows = sum(pq.ParquetFile(f).metadata.num_rows for f in self.files)
        self.left_out: dict[str, str] = {}

    def readers(self, workers: int) -> list[FlatReader]:
        """All readers that are installed."""
        found = [FlatReader("PyArrow datasets", self.log, _loader(_PyArrow(self.files, self.batch_size), workers))]
        found += self._hugging_face(workers)
        found += self._lance(workers)
        return found + self._mosaic(workers)

    def _hugging_face(self, workers: int) -> list[FlatReader]:
        if find_spec("datasets") is None:
            self.left_out["Hugging Face datasets"] = "not installed"
            return []
        cache = self.place / "hugging_face"
        streaming = _HuggingFace(self.files, self.batch_size, self.place / "unused", True)
        mapped = _HuggingFace(self.files, self.batch_size, cache, False)
        return [
            FlatReader("Hugging Face datasets, streaming", self.log, _loader(streaming, workers)),
            # What a worker sends is copied on its way.
            FlatReader("Hugging Face datasets, Arrow cache", cache, _loader(mapped, workers, own=workers == 0)),
        ]

    def _lance(self, workers: int) -> list[FlatReader]:
        if find_spec("lance") is None:
            self.left_out["Lance"] = "not installed"
            return []
        import lance

        target = self.place / "lance"
        if not target.exists():
            data = pads.dataset(self.files, format="parquet")
            # As many files as the Parquet log has, so that workers can share them.
            share = -(-self.rows // len(self.files))
            lance.write_dataset(data.to_batches(), str(target), schema=data.schema, max_rows_per_file=share)
        # Lance's threads do not survive a fork; its manual asks for spawned workers.
        return [FlatReader("Lance", target, _loader(_Lance(target, self.batch_size), workers, spawn=True))]

    def _mosaic(self, workers: int) -> list[FlatReader]:
        if self.mosaic is None:
            self.left_out["MosaicML Streaming"] = (
                "not installed: 0.13.0 needs numpy<2.2, so it takes an environment of its own; see MOSAICML_PYTHON"
            )
            return []
        target, mosaic = self.place / "mosaicml", self.mosaic
        if not target.exists():
            mosaic.ask("write", str(self.log), str(target))
        return [
            FlatReader("MosaicML Streaming", target, lambda: mosaic.ask("epoch", str(target), self.batch_size, workers))
        ]
