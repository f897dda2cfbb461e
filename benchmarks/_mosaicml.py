"""MosaicML Streaming's part of the reader benchmark, run by an interpreter that has it.

Each line on standard input is a JSON list: ``["write", LOG, OUT]`` converts a flat Parquet log to MDS shards, and
``["epoch", OUT, BATCH_SIZE, WORKERS]`` reads an epoch. The answer is a line with the number of rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLUMNS = ("user_id", "request_id", "request_time", "hist_item_ids", "item_id", "price", "label")


def write(log: str, out: str) -> int:
    """One sample for each impression, numbers as NumPy scalars, the history as an array."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from streaming import MDSWriter

    rows = 0
    kinds = {"price": "float64", "label": "int32", "hist_item_ids": "ndarray:int64"}
    with MDSWriter(out=out, columns={c: kinds.get(c, "int64") for c in COLUMNS}) as writer:
        for file in sorted(Path(log).glob("*.parquet")):
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024, columns=list(COLUMNS)):
                place = batch.schema.get_field_index("request_time")
                times = batch.column(place).cast(pa.int64())
                columns = {c: batch.column(c) if c != "request_time" else times for c in COLUMNS}
                offsets = columns["hist_item_ids"].offsets.to_numpy()
                history = columns["hist_item_ids"].values.to_numpy()
                plain = {c: v.to_numpy() for c, v in columns.items() if c != "hist_item_ids"}
                rows += batch.num_rows
                for row in range(batch.num_rows):
                    sample = {c: v[row] for c, v in plain.items()}
                    sample["hist_item_ids"] = history[offsets[row] : offsets[row + 1]]
                    writer.write(sample)
    return rows


def collate(samples: list) -> dict:
    """Scalars stacked, histories as values and offsets."""
    import numpy as np
    import torch

    batch = {c: torch.from_numpy(np.array([s[c] for s in samples])) for c in COLUMNS if c != "hist_item_ids"}
    lists = [s["hist_item_ids"] for s in samples]
    batch["hist_item_ids"] = torch.from_numpy(np.concatenate(lists))
    batch["hist_item_ids.offsets"] = torch.from_numpy(np.cumsum([0, *map(len, lists)]))
    return batch


class Reader:
    """Epochs of converted logs; the loader is kept from one epoch to the next."""

    def __init__(self) -> None:
        self._wanted: tuple[str, int, int] | None = None
        self._loader: object = None

    def epoch(self, out: str, batch_size: int, workers: int) -> int:
        """Read everything once."""
        import gc

        from streaming import StreamingDataset
        from torch.utils.data import DataLoader

        wanted = (out, batch_size, workers)
        if self._wanted != wanted:
            # A dataset waits for ever when it is read with another number of workers than at first.
            self._wanted, self._loader = wanted, None
            gc.collect()
            self._loader = DataLoader(
                StreamingDataset(local=out, batch_size=batch_size, shuffle=False),
                batch_size=batch_size,
                num_workers=workers,
                collate_fn=collate,
                persistent_workers=workers > 0,
            )
        return sum(len(batch["item_id"]) for batch in self._loader)


def main() -> None:
    """Serve until standard input ends."""
    reader = Reader()
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        rows = write(*arguments) if task == "write" else reader.epoch(*arguments)
        sys.stdout.write(f"{rows}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
