"""MosaicML Streaming's part of the reader benchmark, run by an interpreter that has it.

``write LOG OUT`` converts a flat Parquet log to MDS shards. ``read OUT BATCH_SIZE WORKERS`` reads an epoch for every
line on standard input and answers with its rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLUMNS = ("user_id", "request_id", "request_time", "hist_item_ids", "item_id", "price", "label")


def write(log: str, out: str) -> None:
    """One sample for each impression, numbers as NumPy scalars, the history as an array."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from streaming import MDSWriter

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
                for row in range(batch.num_rows):
                    sample = {c: v[row] for c, v in plain.items()}
                    sample["hist_item_ids"] = history[offsets[row] : offsets[row + 1]]
                    writer.write(sample)


def collate(samples: list) -> dict:
    """Scalars stacked, histories as values and offsets."""
    import numpy as np
    import torch

    batch = {c: torch.from_numpy(np.array([s[c] for s in samples])) for c in COLUMNS if c != "hist_item_ids"}
    lists = [s["hist_item_ids"] for s in samples]
    batch["hist_item_ids"] = torch.from_numpy(np.concatenate(lists))
    batch["hist_item_ids.offsets"] = torch.from_numpy(np.cumsum([0, *map(len, lists)]))
    return batch


def read(out: str, batch_size: int, workers: int) -> None:
    """Epochs on demand."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    data = StreamingDataset(local=out, batch_size=batch_size, shuffle=False)
    loader = DataLoader(
        data, batch_size=batch_size, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )
    for _ in sys.stdin:
        print(json.dumps({"rows": sum(len(batch["item_id"]) for batch in loader)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:4])
    else:
        read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
