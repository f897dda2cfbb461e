"""Requests of a user kept together, and batches that have each event once: the same requests, the same lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dedup_storage.errors import ConfigError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.reader.flat import flat_batch
from dedup_storage.schema import DateGrain
from tests.reader.lake import Lake, Log
from tests.reader.reading import contents, deliver
from tests.reader.test_user_layout import opened, same, taken
from tests.reader.user_layout import VIEWS, make_histories, write_user

LISTS = (*VIEWS, "buys")
NUMBERS, SHOWN = ("items", "prices", "buys"), ("item_id", "price", "category")


@pytest.fixture(scope="session")
def log() -> Log:
    """Months whose requests of a user are many."""
    return make_histories(6, 12)


@pytest.fixture(scope="session")
def shared(lake: Lake, log: Log) -> Lake:
    """The log in both layouts."""
    lake.write("shared_split", log, date_grain=DateGrain.MONTH, buckets=1)
    write_user(lake, "shared_user", log, writes=1, buckets=1)
    return lake


def batches(lake: Lake, layout: Layout = Layout.USER, **options: Any) -> DedupDataset:
    return opened(lake, layout, "shared", **{"batch_size": 24, "seed": 4, **options})


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.USER])
@pytest.mark.parametrize(
    "options",
    [{"together": 4}, {"strings": "hash", "mix": 1}, {"shuffle": False, "history_length": 5}, {"buffer_bytes": 4096}],
    ids=lambda options: ",".join(options),
)
def test_shared_lists_are_the_lists(shared: Lake, layout: Layout, options: dict[str, Any]) -> None:
    plain, moved = (
        list(batches(shared, layout, **options)),
        list(batches(shared, layout, histories="shared", **options)),
    )
    assert len(plain) == len(moved) > 2
    for left, right in zip(plain, moved, strict=True):
        same(left, right)
        same(left, right.to_requests())
        same(flat_batch(left), flat_batch(right))
        assert set(right.shared) == {*LISTS}
        assert not right.to_requests().shared
        for name, found in right.shared.items():
            taken = torch.zeros(len(found.values), dtype=torch.bool)
            for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
                taken[start:end] = True
            # Nothing is moved that no request has.
            assert taken.all(), name


def test_options_that_change_nothing_are_told(shared: Lake) -> None:
    """Several readers are given the same options: it is no error."""
    for options, told in (
        ({"histories": "shared", "columns": ["price"]}, "histories='shared' changes nothing"),
        ({"shuffle": False, "together": 3}, "together changes nothing without shuffle"),
        ({"prefetch": 0, "threads": 2}, "threads changes nothing beside prefetch=0"),
    ):
        with pytest.warns(UserWarning, match=told):
            batches(shared, **options)


def test_requests_of_a_user_share_their_events(shared: Lake) -> None:
    sizes = {}
    for together in (1, 100):
        found = list(batches(shared, histories="shared", together=together, columns=["items"], mix=1))
        sizes[together] = sum(len(batch.shared["items"].values) for batch in found)
        tokens = sum(len(batch["items"].values) for batch in found)
        assert sizes[together] < tokens
    assert sizes[100] < sizes[1]


def test_windows_are_what_attention_takes(shared: Lake) -> None:
    batch = next(iter(batches(shared, histories="shared")))
    found = batch.shared["items"]
    found.windows.check(len(found.values), batch.inverse_indices)
    users, index = batch.request_users()
    assert users[index].tolist() == batch.user_ids().tolist()


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.USER])
@pytest.mark.parametrize("together", [2, 5])
def test_the_shuffle_keeps_requests_of_a_user_together(shared: Lake, log: Log, layout: Layout, together: int) -> None:
    order = [
        key
        for batch in batches(shared, layout, together=together, splits=1)
        for key in zip(
            batch["user_id"].decode(), batch["event_date"].decode(), batch["request_id"].decode(), strict=True
        )
    ]
    place = {key: number for number, key in enumerate(order)}
    assert len(place) == log.requests.num_rows
    months: dict[Any, list[Any]] = {}
    first_of_february = 19_024
    for user, date, request in sorted(order, key=lambda key: key[2]):
        months.setdefault((user, date >= first_of_february), []).append((user, date, request))
    alone = 0
    for own in months.values():
        for start in range(0, len(own), together):
            group = own[start : start + together]
            assert all(place[after] == place[before] + 1 for before, after in pairwise(group))
        alone += sum(place[own[at]] != place[own[at - 1]] + 1 for at in range(together, len(own), together))
    assert alone > 0


def test_one_together_is_the_order_of_before(shared: Lake) -> None:
    plain, one = batches(shared, splits=2), batches(shared, splits=2, together=1, histories="lists")
    assert plain.plan.pins == one.plan.pins
    assert plain.plan.opened == one.plan.opened
    assert deliver(plain) == deliver(one)
    assert deliver(batches(shared, splits=2, together=3)) != deliver(one)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly(shared: Lake, workers: int) -> None:
    options = {"splits": 2, "together": 3, "histories": "shared", "buffer_bytes": 8192, "batch_size": 12}
    everything = deliver(batches(shared, **options))
    first, before = batches(shared, **options), []
    for batch in first.track(DataLoader(first, batch_size=None, num_workers=workers)):
        before.append(batch)
        if len(before) == 3:
            break
    rest = batches(shared, **options)
    rest.load_state_dict(first.state_dict())
    assert contents(before) + deliver(rest) == everything


def rows(dataset: DedupDataset) -> dict[Any, Any]:
    """What each request was delivered with, and its impressions."""
    found = {}
    for batch in dataset:
        own = {name: column.decode() for name, column in batch.requests.items()}
        theirs = list(zip(*(batch[name].decode() for name in SHOWN), strict=True))
        offsets = batch.offsets.tolist()
        for row, key in enumerate(own["request_id"]):
            assert key not in found
            found[key] = repr(({n: c[row] for n, c in own.items()}, theirs[offsets[row] : offsets[row + 1]]))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"buffer_bytes": 4096, "columns": (*NUMBERS, *SHOWN)},
        {"together": 3, "histories": "shared", "filters": {"price": {">": 2}, "start": "2022-01-15"}},
        {"history_length": 9, "columns": ("items", *SHOWN), "unit": "tokens", "tokens": "items", "batch_size": 60},
    ],
    ids=lambda options: ",".join(options),
)
def test_reading_across_dates_delivers_the_same_requests(shared: Lake, options: dict[str, Any]) -> None:
    apart = rows(batches(shared, Layout.SPLIT, **options))
    split, user = (
        rows(batches(shared, layout, across_dates=True, **options)) for layout in (Layout.SPLIT, Layout.USER)
    )
    assert apart == split == user
    assert list(split) == list(user) != list(apart)


def test_an_event_is_taken_once_in_an_epoch_across_dates(shared: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = taken(monkeypatch)
    order = []
    for batch in batches(shared, across_dates=True, shuffle=False, columns=["items"], buffer_bytes=4096):
        order += batch["user_id"].decode()
    assert order == sorted(order)
    assert set(counts.values()) == {1}


def test_reading_across_dates_resumes_exactly(shared: Lake) -> None:
    options = {"across_dates": True, "together": 4, "splits": 1, "buffer_bytes": 8192, "batch_size": 12}
    everything = deliver(batches(shared, **options))
    first, rest = batches(shared, **options), batches(shared, **options)
    before = [batch for _, batch in zip(range(4), first, strict=False)]
    rest.load_state_dict(first.state_dict(after=before[-1]))
    assert contents(before) + deliver(rest) == everything


def test_a_flat_log_is_not_read_across_dates(lake: Lake) -> None:
    lake.write("shared_flat", make_histories(2, 2), layout=Layout.FLAT, date_grain=DateGrain.MONTH, buckets=1)
    with pytest.raises(ConfigError, match="requests in a table of their own"):
        DedupDataset("shared_flat", lake.settings, across_dates=True)
