"""What the report says of a log's histories: planted ones, exactly; a part of the users, with an interval."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

from dedup_storage.dataset.write.groups import groups_of
from dedup_storage.dedup import gather
from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.report.draw.users import LogDraw, from_flat
from dedup_storage.report.estimate.baselines import BaselineLayout, measure_layout
from dedup_storage.report.estimate.histories import days, histories, user_time_order
from dedup_storage.report.estimate.layouts import KnownTotals, estimate_layouts
from dedup_storage.report.estimate.user_grain import estimate_user_grain
from dedup_storage.report.estimate.user_layout import plan_histories, user_tables
from dedup_storage.report.model import Range, UserGrain
from dedup_storage.report.show.user_grain import grain_rows, grain_text
from dedup_storage.schema import LogSchema
from dedup_storage.windows import Events, Lists, Memory, Windows, rebuild

USERS, REQUESTS, LENGTH, SLIDE = 12, 6, 40, 5
START = datetime(2024, 1, 30, 22, tzinfo=UTC)
STEP = timedelta(hours=9)
SCHEMA: dict[str, Any] = {
    "user": "user_id", "request": "request_id", "item": "item_id", "event_time": "ts", "labels": "label",
    "sequences": [{"column": c, "group": "history"} for c in ("items", "ages", "times", "ranks")]
    + [{"column": "chosen"}, {"column": "anew", "group": "other"}],
}  # fmt: skip


def made(users: int = USERS, requests: int = REQUESTS, newest_first: bool = False, candidates: int = 2) -> LogDraw:
    """Histories that slide by five; an age and a rank beside each event; items chosen by the request in lists alone."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for u in range(users):
        for r in range(requests):
            first = 10_000 * u + SLIDE * r
            items = list(range(first, first + LENGTH + u))
            now = START + r * STEP
            row = {
                "user_id": u, "request_id": 100 * u + r, "ts": now, "label": 0,
                "items": items, "times": [i * 7 for i in items], "ages": [10_000 * r + 3 * i for i in items],
                "ranks": list(range(len(items))), "chosen": rng.choice(10**6, 30).tolist(),
                "anew": [items[0], None] if r else None,
            }  # fmt: skip
            if newest_first:
                row |= {name: row[name][::-1] for name in ("items", "times", "ages", "ranks")}
            rows += [row | {"item_id": c} for c in range(candidates)]
    # Files hold rows in no order: time decides.
    order = rng.permutation(len(rows))
    columns = {name: pa.array([rows[i][name] for i in order]) for name in rows[0] if name != "anew"}
    columns["anew"] = pa.array([rows[i]["anew"] for i in order], pa.list_(pa.int64()))
    return from_flat(LogSchema.from_dict(SCHEMA), [pa.table(columns)])


def known_of(draw: LogDraw) -> KnownTotals:
    """What the footers of the draw's flat log would say: null elements do not count."""
    flat = {name: gather(draw.requests[name], draw.inverse) for name in draw.schema.sequence_columns}
    elements = {name: pc.count(pc.list_flatten(lists)).as_py() for name, lists in flat.items()}
    return KnownTotals(draw.num_impressions, None, elements, False)


def grains(draw: LogDraw, known: KnownTotals | None = None, stored: bool = True) -> tuple[UserGrain, ...]:
    known = known or known_of(draw)
    plans = plan_histories(draw)
    asked = (BaselineLayout.SPLIT, BaselineLayout.USER) if stored else ()
    layouts = estimate_layouts(draw, known, layouts=asked, plans=plans)
    return estimate_user_grain(draw, known, plans, layouts)


def grain_of(draw: LogDraw, known: KnownTotals | None = None, stored: bool = True) -> dict[str, UserGrain]:
    return {group.group: group for group in grains(draw, known, stored)}


@pytest.fixture(scope="module")
def draw() -> LogDraw:
    return made()


@pytest.fixture(scope="module")
def grain(draw: LogDraw) -> dict[str, UserGrain]:
    return grain_of(draw)


def test_what_was_planted_is_found(grain: dict[str, UserGrain]) -> None:
    history = grain["history"]
    assert (history.event_columns, history.request_columns) == (("items", "times"), ("ages", "ranks"))
    assert history.newest_first is False
    tokens = sum(REQUESTS * (LENGTH + u) for u in range(USERS))
    assert (history.tokens.value, history.tokens.low) == (tokens, tokens)
    assert history.events.value == sum(LENGTH + u + SLIDE * (REQUESTS - 1) for u in range(USERS))
    dates = [(START + r * STEP).date() for r in range(REQUESTS)]
    for found, period in ((history.ratio_month, lambda d: d.month), (history.ratio_day, lambda d: d)):
        parts = [sum(period(d) == p for d in dates) for p in {period(d) for d in dates}]
        kept = sum(LENGTH + u + SLIDE * (n - 1) for u in range(USERS) for n in parts)
        assert found is not None
        assert found.value == pytest.approx(tokens / kept)
    assert (history.runs.value, history.runs_p99, history.no_windows.value) == (1, 1, 0)
    assert (history.slide, history.slide_mean) == (SLIDE, SLIDE)
    # Two event columns of 8 bytes and two columns a request of 8 bytes; 16 bytes a run, 8 an offset.
    requests = USERS * REQUESTS
    assert history.decoded_split.value == 4 * 8 * (tokens + requests)
    assert history.decoded_user.value == 2 * 8 * history.events.value + 2 * 8 * (tokens + requests) + 16 * requests


def test_lists_that_are_chosen_by_the_request_do_not_pay(grain: dict[str, UserGrain]) -> None:
    chosen = grain["chosen"]
    assert chosen.events.value == chosen.tokens.value
    assert chosen.ratio.value == 1
    assert not chosen.pays
    assert "decoding falls by" in chosen.verdict or "no windows" in chosen.verdict
    # Every list holds what no other does, so each is a new run; drawn from few items, they fit nowhere.
    few = made(users=6, requests=30)
    drawn = np.random.default_rng(0).integers(0, 60, 30 * few.num_requests)
    lists = pa.LargeListArray.from_arrays(pa.array(np.arange(0, len(drawn) + 1, 30)), pa.array(drawn))
    at = few.requests.column_names.index("chosen")
    said = grain_of(replace(few, requests=few.requests.set_column(at, "chosen", lists)))["chosen"]
    assert said.no_windows.value > 0.5
    assert not said.pays
    assert "no windows of their user's list" in said.verdict


def test_events_are_of_lists_that_go_on_from_request_to_request(draw: LogDraw) -> None:
    """Others would make users' lists as long as the log; where no user has two requests nothing tells."""
    found = groups_of(draw.requests, draw.schema)
    assert [(group.name, group.columns) for group in found] == [("history", ("items", "times"))]
    unknown = groups_of(made(requests=1).requests, draw.schema)
    assert [group.columns for group in unknown] == [("items", "ages", "times", "ranks"), ("chosen",), ("anew",)]


@pytest.mark.parametrize("newest_first", [False, True])
def test_times_of_events_lose_their_dictionary(newest_first: bool) -> None:
    """What goes up along users' lists does, in either direction of the lists; a column that never changes does not."""
    random = np.random.default_rng(0)
    users, requests, length = 40, 3, 300
    words = np.array([f"a rather long name of item {random.integers(10**12)}" for _ in range(200)])
    events = {
        "ids": np.minimum(random.zipf(1.3, (users, length + requests)), 20_000) * 2**40,
        "times": 10**9 * np.arange(users)[:, None]
        + 60 * np.cumsum(random.integers(0, 2, (users, length + requests)), axis=1),
        "kinds": random.choice(4, (users, length + requests), p=[0.7, 0.1, 0.1, 0.1]),
        "names": words[random.integers(0, 200, (users, length + requests))],
        "same": np.ones((users, length + requests)),
        "seen": random.random((users, length + requests)) < 0.5,
    }
    step = -1 if newest_first else 1
    lists = [[v[u, r : r + length][::step] for v in events.values()] for u in range(users) for r in range(requests)]
    keys = {"user": np.repeat(np.arange(users), requests), "request": np.tile(np.arange(requests), users)}
    table = pa.table(keys | dict(zip(events, zip(*lists, strict=True), strict=True)))
    schema = LogSchema.from_dict(
        {"user": "user", "request": "request", "item": "item", "date_grain": "none",
         "sequences": [{"column": c, "group": "g"} for c in events]}
    )  # fmt: skip
    (group,) = groups_of(table, schema)
    assert group.columns == tuple(events)
    assert group.newest_first is newest_first
    assert group.dictionaries == ("ids", "kinds", "names", "same", "seen")


def test_the_direction_is_found_and_one_request_a_user_does_not_pay() -> None:
    turned = grain_of(made(newest_first=True))["history"]
    assert turned.newest_first is True
    assert turned.event_columns == ("items", "times")
    assert turned.events.value == sum(LENGTH + u + SLIDE * (REQUESTS - 1) for u in range(USERS))
    once = grain_of(made(requests=1))["history"]
    assert (once.pays, once.newest_first, once.slide) == (False, None, None)
    assert "no user has two requests" in once.verdict


def test_the_tables_give_every_list_back(draw: LogDraw) -> None:
    tables = user_tables(draw, {})
    order = user_time_order(draw)
    _, owners = np.unique(draw.users, return_inverse=True)
    given = {name: tables.requests[name].to_pylist() for name in draw.schema.sequence_columns}
    for group in tables.groups:
        names = group.events.column_names[2:]
        rows = order[np.unique(draw.users[order], return_index=True)[1]]
        firsts = draw.requests["user_id"].take(pa.array(rows)).to_pylist()
        counts = [group.events["user"].to_pylist().count(u) for u in firsts]
        events = Events(offsets_from_lengths(counts), {n: group.events[n].combine_chunks() for n in names})
        assert group.events["position"].to_pylist() == [p for n in counts for p in range(n)]
        told = group.windows.to_pylist()
        runs = [[(row["start"], row["length"])] * (row["start"] is not None) for row in told]
        for row, found in zip(told, runs, strict=True):
            found += list(zip(row["more_starts"], row["more_lengths"], strict=True))
        flat = np.array([run for found in runs for run in found], dtype=np.int64).reshape(-1, 2)
        none = np.zeros(len(runs), dtype=bool)
        windows = Windows(offsets_from_lengths([len(found) for found in runs]), flat[:, 0], flat[:, 1], none,
                          np.zeros(1, np.int64), np.empty(0, np.int64), Memory.none(0))  # fmt: skip
        offsets, columns = rebuild(windows, owners, events)
        for name in names:
            values = columns[name].to_pylist()
            for i, left in enumerate(given[name]):
                given[name][i] = None if left is None else left + values[offsets[i] : offsets[i + 1]]
    assert given == {name: draw.requests[name].to_pylist() for name in draw.schema.sequence_columns}


def test_bytes_of_the_layout_lie_between_split_and_floor(draw: LogDraw) -> None:
    measured = {layout: measure_layout(draw, layout) for layout in (BaselineLayout.SPLIT, BaselineLayout.USER)}
    assert set(measured[BaselineLayout.USER].columns) == set(measured[BaselineLayout.SPLIT].columns)
    for scalar in ("ts", "item_id", "label"):
        assert measured[BaselineLayout.USER].columns[scalar] == measured[BaselineLayout.SPLIT].columns[scalar]


def test_a_part_of_the_users_is_told_with_an_interval_that_holds_the_truth() -> None:
    whole = made(users=60, requests=3)
    known, truth = known_of(whole), grain_of(whole, stored=False)["history"]
    held = []
    users = np.unique(whole.users)
    for seed in range(8):
        chosen = np.isin(whole.users, np.random.default_rng(seed).choice(users, 24, replace=False))
        found = grain_of(replace(whole.part(chosen), share=0.4), known, stored=False)["history"]
        for name in ("tokens", "events", "ratio", "decoded_user", "requests"):
            value, right = getattr(found, name), getattr(truth, name)
            assert value.low <= value.value <= value.high
            held.append(value.low <= right.value <= value.high)
    assert sum(held) >= 36


@pytest.mark.parametrize(("most", "users"), [(1, 8), (2_700, 9)])
def test_of_a_large_draw_some_users_are_matched(
    draw: LogDraw, grain: dict[str, UserGrain], monkeypatch: pytest.MonkeyPatch, most: int, users: int
) -> None:
    monkeypatch.setattr("dedup_storage.report.estimate.user_grain._MOST_TOKENS", most)
    found, truth = grain_of(draw, stored=False)["history"], grain["history"]
    assert found.users == users
    # Total tokens are known from the log; what is stored of them is estimated.
    assert found.tokens.value == pytest.approx(truth.tokens.value)
    assert found.events.value == pytest.approx(truth.events.value, rel=0.2)
    assert found.events.low < found.events.high
    # What all users that were drawn tell is counted, and figures of one quantity agree.
    assert found.requests == Range(value=draw.num_requests, low=draw.num_requests, high=draw.num_requests)
    assert found.decoded_split == truth.decoded_split
    assert found.ratio.value == pytest.approx(found.tokens.value / found.events.value)


@pytest.mark.parametrize("seed", range(6))
def test_no_estimate_goes_beyond_what_is_counted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3,000 requests 3,039 had a history: some users' were matched, and lists told the requests of the others."""
    monkeypatch.setattr("dedup_storage.report.estimate.user_grain._MOST_TOKENS", 1_500)
    whole = made(users=60, requests=3)
    users = np.unique(whole.users)
    chosen = np.isin(whole.users, np.random.default_rng(seed).choice(users, 24, replace=False))
    drawn = replace(whole.part(chosen), share=0.4)
    of_requests = KnownTotals(whole.num_impressions, whole.num_requests, {}, True)
    for known, most in ((known_of(whole), whole.num_impressions), (of_requests, whole.num_requests)):
        for group in grain_of(drawn, known, stored=False).values():
            assert group.requests.low <= group.requests.value <= group.requests.high <= most
            assert 0 <= group.no_windows.low <= group.no_windows.high <= 1
            assert 1 <= group.ratio.low <= group.tokens.value / group.events.value + 1e-9
            assert group.events.high <= group.tokens.high
    # Every request has a list: they are as many as there are requests, not as many as lists of some length.
    assert grain_of(drawn, stored=False)["history"].requests.value == drawn.num_requests
    log = grain_of(drawn, known_of(whole), stored=False)["history"].requests
    assert log.value == pytest.approx(whole.num_impressions * drawn.num_requests / drawn.num_impressions)


def test_the_text_holds_every_group(grain: dict[str, UserGrain]) -> None:
    groups = list(grain.values())
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*grain_text(groups))
    shown = console.export_text()
    for group in groups:
        assert group.group in shown
        assert group.verdict[:60] in shown
    assert {len(row) for row in grain_rows(groups)} == {1 + len(groups)}
    assert grain_text([]) == []


DAY = date(2024, 5, 2)
SECONDS = 1_714_608_000 + 3_600


@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        (pa.array([SECONDS]), "s", DAY),
        (pa.array([SECONDS * 1000]), None, DAY),
        (pa.array([SECONDS * 10**9]), None, DAY),
        (pa.array([5, -1]), "s", date(1970, 1, 1)),
        (pa.array([5]), None, None),
        (pa.array(["2024-05-02T01:00:00Z"]), None, DAY),
        (pa.array(["2024-05-02 01:00:00"]), None, DAY),
        (pa.array(["5/2/2024 1:00:00 AM"]), "M/d/yyyy h:mm:ss a", None),
        (pa.array([datetime(2024, 5, 2, 1)]), None, DAY),
        (pa.array([SECONDS * 10**6 - 2 * 3600 * 10**6], pa.timestamp("us", "Asia/Tokyo")), None, date(2024, 5, 1)),
        (pa.array([DAY]), None, DAY),
        (pa.array([None], pa.int64()), None, None),
        (pa.array([1.5]), None, None),
    ],
)  # fmt: skip
def test_dates_of_event_times(times: pa.Array, unit: str | None, expected: date | None) -> None:
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "i", "event_time": "t"} | ({"time_unit": unit} if unit else {})
    )
    found = days(pa.chunked_array([times]), schema)
    assert (found[0].as_py() if found is not None else None) == expected
    if len(times) == 2:
        assert found is not None
        assert found[1].as_py() == date(1969, 12, 31)


def test_lists_of_texts_and_lists_without_a_token() -> None:
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "i", "sequences": [{"column": "a", "group": "b"}, {"column": "b"}]}
    )
    texts = [["x", None, ""], ["x", None, "", "y"], None, []] * 3
    empty = pa.array([[], None] * 6, pa.list_(pa.float32()))
    table = pa.table({"u": [1] * 4 + [2] * 4 + [3] * 4, "r": range(12), "i": range(12), "a": texts, "b": empty})
    # A group may be named as another group's column is.
    texts_of, nothing = grains(from_flat(schema, [table]))
    assert (texts_of.group, texts_of.event_columns, texts_of.ratio_day) == ("b", ("a",), None)
    assert (texts_of.tokens.value, texts_of.events.value) == (21, 12)
    assert (nothing.group, nothing.tokens.value, nothing.ratio.value, nothing.pays) == ("b", 0, 0, False)


def test_columns_whose_lists_differ_in_length_are_taken_apart() -> None:
    uneven = made(users=2, requests=2)
    at = uneven.requests.column_names.index("times")
    shorter = gather(uneven.requests["chosen"], np.arange(uneven.num_requests))
    found = histories(replace(uneven, requests=uneven.requests.set_column(at, "times", shorter)), np.arange(4))
    assert [h.name for h in found] == ["items", "ages", "times", "ranks", "chosen", "other"]
    assert isinstance(found[0].lists, Lists)
