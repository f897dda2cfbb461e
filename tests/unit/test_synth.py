"""Synthetic logs: the generator against published vectors, statistics, and slices made apart."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.errors import ConfigError, InputError, UnknownColumnError
from dedup_storage.schema import LogSchema
from dedup_storage.synth import PRESETS, SynthLayout, SynthParams, arrow_schema, batches, statistics, write_log
from dedup_storage.synth.files import prepare, write_file
from dedup_storage.synth.history import history_events
from dedup_storage.synth.items import candidates
from dedup_storage.synth.philox import Stream, philox4x32, words
from dedup_storage.synth.population import population, ragged_arange, requests_between
from tests.strategies import examples

KEYS = ["user_id", "request_id"]


def read(params: SynthParams, table: str = "log") -> pa.Table:
    made = [b for file in range(params.files) for b in batches(params, table, file)]
    return pa.Table.from_batches(made, schema=arrow_schema(params, table))


def digests(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()
    }


@st.composite
def synth_params(draw: st.DrawFn) -> SynthParams:
    lengths = draw(st.sampled_from([0, 1, 7, 40]))
    return SynthParams(
        users=draw(st.integers(1, 12)),
        requests_per_user=draw(st.integers(1, 6)),
        requests_distribution=draw(st.sampled_from(["fixed", "geometric"])),
        candidates_per_request=draw(st.integers(1, 9)),
        candidates_distribution=draw(st.sampled_from(["fixed", "geometric"])),
        sequence_length=lengths,
        new_events_per_request=draw(st.integers(0, 9)),
        cold_users=draw(st.sampled_from([0.0, 0.5, 1.0])),
        items=draw(st.sampled_from([400, 5_000])),
        item_exponent=draw(st.sampled_from([0.0, 1.05, 3.0])),
        hot_users=draw(st.sampled_from([0.0, 0.3])),
        late_labels=draw(st.sampled_from([0.0, 0.4, 1.0])),
        string_ids=draw(st.booleans()),
        seed=draw(st.integers(0, 2**64 - 1)),
        files=draw(st.integers(1, 5)),
    )


# Random123's known-answer vectors (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    made = philox4x32(tuple(np.array([c], dtype=np.uint64) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word[0]) for word in made) == answer


def test_draws_differ_in_every_coordinate() -> None:
    base = words(5, Stream.EVENT, 3, 2, 1)[0]
    others = [
        words(6, Stream.EVENT, 3, 2, 1),
        words(5 + (1 << 32), Stream.EVENT, 3, 2, 1),
        words(5, Stream.USER, 3, 2, 1),
        words(5, Stream.EVENT, 3 + (1 << 32), 2, 1),
        words(5, Stream.EVENT, 3, 1, 2),
    ]
    assert all(int(other[0]) != int(base) for other in others)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1))
def test_ragged_arange_concatenates_ranges(pairs: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array(x, dtype=np.int64) for x in zip(*pairs, strict=True))
    assert ragged_arange(starts, lengths).tolist() == [v for s, n in pairs for v in range(s, s + n)]


@examples(40)
@given(synth_params())
def test_every_layout_holds_the_same_rows(params: SynthParams) -> None:
    order = [(k, "ascending") for k in [*KEYS, "item_id"]]
    flat = read(params).sort_by(order)
    shuffled = read(params.model_copy(update={"layout": SynthLayout.SHUFFLED})).sort_by(order)
    assert shuffled.equals(flat)

    frames = params.model_copy(update={"layout": SynthLayout.FRAMES})
    requests, impressions = read(frames, "requests"), read(frames, "impressions")
    by_key = {(r["user_id"], r["request_id"]): r for r in requests.to_pylist()}
    assert len(by_key) == requests.num_rows
    joined = [{**by_key[i["user_id"], i["request_id"]], **i} for i in impressions.to_pylist()]
    assert pa.Table.from_pylist(joined, schema=flat.schema).sort_by(order).equals(flat)

    nested = read(params.model_copy(update={"layout": SynthLayout.NESTED})).to_pylist()
    exploded = [{**r, **c} for r in nested for c in r["candidates"]]
    for row in exploded:
        del row["candidates"]
    assert pa.Table.from_pylist(exploded, schema=flat.schema).sort_by(order).equals(flat)


@examples(40)
@given(synth_params())
def test_a_log_keeps_its_own_promises(params: SynthParams) -> None:
    flat, known = read(params), statistics(params)
    rows = flat.to_pylist()
    requests = {(r["user_id"], r["request_id"]): r for r in rows}
    assert (known.impressions, known.requests, known.users) == (
        len(rows),
        len(requests),
        len({user for user, _ in requests}),
    )
    assert known.dedup_factor == len(rows) / len(requests)
    times = flat.column("request_time").to_pylist()
    assert times == sorted(times)
    assert len({(r["user_id"], r["request_id"], r["item_id"]) for r in rows}) == len(rows)
    elements = 0
    for row in requests.values():
        lists = [row[c] for c in params.log_schema().sequence_columns]
        assert len({len(values) for values in lists}) == 1
        assert len(lists[0]) <= params.sequence_length
        assert row["hist_times"] == sorted(row["hist_times"])
        assert all(t <= row["request_time"] for t in row["hist_times"][-1:])
        elements += len(lists[0])
    assert elements == known.history_elements


def test_histories_slide_over_one_sequence_of_events() -> None:
    params = SynthParams(users=3, requests_per_user=5, sequence_length=20, new_events_per_request=6, cold_users=0.4)
    rows = read(params.model_copy(update={"layout": SynthLayout.NESTED})).to_pylist()
    cold = population(params).cold
    assert 0 < cold.sum() < 3
    for user in range(3):
        mine = sorted((r for r in rows if r["user_id"] == user + 1), key=lambda r: r["request_time"])
        events = history_events(params, np.full(44, user), np.arange(44))
        for number, row in enumerate(mine):
            stop = (0 if cold[user] else 20) + 6 * number
            expected = events["hist_item_ids"][max(0, stop - 20) : stop]
            assert row["hist_item_ids"] == expected.tolist()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_validate_and_describe_themselves(name: str) -> None:
    params = SynthParams.preset(name)
    schema = params.log_schema()
    schema.require_columns(arrow_schema(params, "log").names)
    assert LogSchema.from_dict(schema.to_dict()) == schema
    assert SynthParams.from_dict(params.model_dump(mode="json")) == params


def test_bench_is_the_log_of_the_measurements() -> None:
    known = statistics(SynthParams.preset("bench"))
    assert (known.requests, known.impressions, known.dedup_factor) == (2_000, 40_000, 20)
    assert known.history_elements == 2_000 * 2_000
    assert known.distinct_events == 200 * (2_000 + 9 * 20)


def test_item_popularity_follows_its_exponent() -> None:
    params = SynthParams(users=20_000, requests_per_user=1, sequence_length=40, items=1_000, item_exponent=1.2, seed=3)
    events = history_events(params, np.repeat(np.arange(20_000), 40), np.tile(np.arange(40), 20_000))
    counts = np.sort(np.unique(events["hist_item_ids"], return_counts=True)[1])[::-1]
    # Maximum likelihood exponent by a grid, an independent way to the parameter: log L = -s sum(n log r) - N log Z(s).
    ranks = np.arange(1, 1_001)
    grid = np.arange(0.9, 1.5, 0.005)
    normaliser = np.log((ranks[None, :] ** -grid[:, None]).sum(axis=1))
    likelihood = -grid * (counts * np.log(ranks[: len(counts)])).sum() - counts.sum() * normaliser
    assert grid[likelihood.argmax()] == pytest.approx(1.2, abs=0.011)
    share = statistics(params).top_item_share
    error = np.sqrt(share * (1 - share) / 800_000)
    assert counts[0] / 800_000 == pytest.approx(share, abs=5 * error)


def test_hot_users_labels_and_lateness_have_the_stated_shares() -> None:
    params = SynthParams(
        users=1_000, requests_per_user=3, candidates_per_request=20, candidates_distribution="geometric",
        hot_users=0.02, hot_factor=25, late_labels=0.2, label_delay_seconds=600, history=(), seed=11,
    )  # fmt: skip
    known = statistics(params)
    assert known.hot_users == 20
    assert known.hot_request_share == 20 * 75 / (20 * 75 + 980 * 3)
    flat, late = read(params), read(params, "labels")
    counts = np.sort(np.unique(flat["user_id"].to_numpy(), return_counts=True)[1])[::-1]
    assert counts[:20].sum() / counts.sum() == pytest.approx(known.hot_request_share, rel=0.1)
    assert known.dedup_factor == pytest.approx(20, rel=5 / np.sqrt(known.requests))
    rows = flat.num_rows
    assert flat["label"].null_count == late.num_rows
    assert late.num_rows / rows == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / rows))
    clicks = pc.sum(flat["label"]).as_py() + pc.sum(late["label"]).as_py()
    assert clicks / rows == pytest.approx(known.expected_label, abs=5 * np.sqrt(0.1 / rows))
    made = flat.filter(pc.is_null(flat["label"])).join(
        late, [*KEYS, "item_id"], right_suffix="_late", join_type="inner"
    )
    assert made.num_rows == late.num_rows
    delay = pc.subtract(made["label_time"].cast(pa.int64()), made["request_time"].cast(pa.int64())).to_numpy() / 1e6
    assert delay.min() >= 0
    assert delay.mean() == pytest.approx(600, rel=5 / np.sqrt(len(delay)))


def test_candidates_are_distinct_when_popular_items_run_out() -> None:
    params = SynthParams(users=2, requests_per_user=2, candidates_per_request=100, items=400, item_exponent=3.0)
    requests = requests_between(params, 0, params.duration_us)
    made = candidates(params, requests)
    for request in range(len(requests)):
        assert len(np.unique(made.rank[made.request == request])) == 100
    alone = candidates(params, requests.take(np.array([2])))
    assert np.array_equal(alone.rank, made.rank[made.request == 2])


@pytest.mark.parametrize("layout", SynthLayout)
def test_same_seed_same_bytes_in_any_order(tmp_path: Path, layout: SynthLayout) -> None:
    params = SynthParams.preset("small", layout=layout, seed=2)
    log = write_log(params, tmp_path / "one")
    prepare(params, str(tmp_path / "two"))
    tasks = [(t, f) for t in params.tables for f in reversed(range(params.files))]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda task: write_file(params, str(tmp_path / "two"), *task), tasks))
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert one.pop("_schema.yaml")
    assert one == two
    assert sum(p.stat().st_size for p in (tmp_path / "one").rglob("*.parquet")) == sum(log.bytes.values())
    assert {t: pq.read_table(d).num_rows for t, d in log.tables.items()} == log.rows
    assert LogSchema.from_yaml(log.schema) == params.log_schema()

    other = write_log(params.model_copy(update={"seed": 3}), tmp_path / "three")
    data = next(iter(other.tables))
    assert digests(tmp_path / "three" / data) != digests(tmp_path / "one" / data)


def test_writing_again_is_harmless_and_other_logs_are_refused(tmp_path: Path) -> None:
    params = SynthParams(users=3)
    write_log(params, tmp_path)
    before = digests(tmp_path)
    write_log(params, tmp_path)
    assert digests(tmp_path) == before
    with pytest.raises(InputError, match="other parameters"):
        write_log(params.model_copy(update={"seed": 1}), tmp_path)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "x").touch()
    with pytest.raises(InputError, match="not empty"):
        write_log(params, tmp_path / "busy")
    assert digests(tmp_path / "busy").keys() == {"x"}


def test_batches_stay_bounded() -> None:
    params = SynthParams.preset("long", users=2, files=1, candidates_per_request=64)
    sizes = [batch.nbytes for batch in batches(params, "log", 0)]
    assert len(sizes) > 3
    assert max(sizes) < 64 * 1024**2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user": 3}, "user is unknown.*users"),
        ({"sequence_length": 16_385}, "sequence_length"),
        ({"items": 20, "candidates_per_request": 9}, "items.*36"),
        ({"start": "2026-01-01T00:00:00"}, "time zone"),
        ({"requests_per_user": 90_000, "days": 1}, "one request a second"),
        ({"history": ["hist_times", "hist_times"]}, "named twice"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthParams.from_dict(values)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="bench"):
        SynthParams.preset("bensh")
    with pytest.raises(UnknownColumnError, match="labels"):
        arrow_schema(SynthParams(), "labels")
