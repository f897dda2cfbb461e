"""A flat batch holds what the flat log's rows hold."""

from __future__ import annotations

import pytest
import torch

from dedup_storage.reader import DedupDataset, flat_batch
from dedup_storage.schema import Grain
from tests.reader.lake import Lake, make_log


@pytest.mark.parametrize("strings", ["dictionary", "hash"])
def test_every_request_value_stands_beside_each_of_its_impressions(lake: Lake, name: str, strings: str) -> None:
    lake.write(name, make_log(string_users=True), buckets=2)
    for batch in DedupDataset(name, lake.settings, batch_size=40, strings=strings):
        extended = batch.with_columns(requests={"extra": torch.arange(batch.num_requests) * 0.5})
        flat = flat_batch(extended)
        assert flat.num_requests == flat.num_impressions == len(batch)
        assert flat.inverse_indices.tolist() == list(range(len(batch)))
        assert set(flat) == set(extended)
        assert flat.grains == extended.grains
        for column, grain in extended.grains.items():
            once, owners = extended[column].decode(), batch.inverse_indices.tolist()
            wanted = [once[r] for r in owners] if grain is Grain.REQUEST else once
            assert repr(flat[column].decode()) == repr(wanted), column
        assert torch.equal(flat.user_ids("impression"), batch.user_ids("impression"))
        assert torch.equal(flat.negative_mask(), batch.negative_mask())
        assert flat.num_bytes > batch.num_bytes
        assert flat.num_bytes == flat.buffer.numel()
        vectors = torch.rand(batch.num_requests, 3)
        wide = flat_batch(extended.with_columns(requests={"vectors": vectors}))
        assert torch.equal(wide["vectors"].values, batch.expand(vectors))
        assert set(wide) == {*extended, "vectors"}


def test_an_empty_batch_stays_empty(lake: Lake, name: str) -> None:
    lake.write(name, make_log(users=1, requests_per_user=1), buckets=1)
    dataset = DedupDataset(name, lake.settings, rank=1, world_size=2, ends="pad", splits=2)
    (empty,) = dataset
    assert (empty.num_impressions, flat_batch(empty).num_impressions) == (0, 0)
    assert flat_batch(empty)["history"].decode() == []
