"""Small logs in the forms in which public recommender logs are published; no published row is among them.

Each function writes a few hundred rows, always the same, and gives what ``write`` and ``infer-schema`` take.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["PUBLIC_LOGS", "mind_rows"]


def _lines(place: Path, lines: Iterable[str]) -> str:
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(place)


def _parquet(place: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), place)
    return str(place)


def mind_rows() -> list[dict[str, Any]]:
    """Impressions of a news page, as they are meant."""
    some, rows = random.Random(1), []
    for number in range(1, 61):
        moment = dt.datetime(2019, 11, 9 + number % 6, number % 24, number % 60, 5)
        shown = [f"N{n}" for n in some.sample(range(900), some.randrange(1, 7))]
        rows.append(
            {
                "impression_id": str(number), "user_id": f"U{number % 13}", "time": moment,
                "history": [f"N{some.randrange(900)}" for _ in range(number % 5)],
                "shown": [(item, int(place == 0)) for place, item in enumerate(shown)],
            }
        )  # fmt: skip
    return rows


def mind(folder: Path) -> str:
    """MIND's behaviors.tsv: no header, lists as texts, an item and its label in one text."""
    lines = []
    for row in mind_rows():
        moment = row["time"]
        time = f"{moment.month}/{moment.day}/{moment.year} {moment.hour % 12 or 12}:{moment:%M:%S %p}"
        shown = " ".join(f"{item}-{label}" for item, label in row["shown"])
        lines.append("\t".join([row["impression_id"], row["user_id"], time, " ".join(row["history"]), shown]))
    return _lines(folder / "behaviors.tsv", lines)


def kuairand(folder: Path) -> str:
    """KuaiRand: a row an impression, without requests; times in milliseconds."""
    header = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,long_view,play_time_ms,duration_ms,is_rand,tab"
    rows = (
        f"{n % 7},{n * 37 % 200},20220408,1200,{1649400000000 + n // 3},{n % 2},0,0,{n * 91},{n * 97},0,1"
        for n in range(200)
    )
    return _lines(folder / "log_standard.csv", [header, *rows])


def otto(folder: Path) -> str:
    """OTTO: a session a line, with a list of events."""
    events = [{"aid": n, "ts": 1659304800025 + n, "type": "clicks"} for n in range(5)]
    return _lines(folder / "train.jsonl", (json.dumps({"session": n, "events": events}) for n in range(50)))


def retailrocket(folder: Path) -> str:
    """RetailRocket: a row an event."""
    rows = (f"{1433221332117 + n},{n % 9},view,{n % 50}," for n in range(200))
    return _lines(folder / "events.csv", ["timestamp,visitorid,event,itemid,transactionid", *rows])


def tenrec(folder: Path) -> str:
    """Tenrec's CTR file: the history in ten columns, filled with 0; no time and no request."""
    header = ["user_id,item_id,click,like,gender,age," + ",".join(f"hist_{n}" for n in range(1, 11))]
    for user in range(1, 30):
        history = ",".join(str(user * 10 + n if n > user % 9 else 0) for n in range(1, 11))
        header += [f"{user},{user * 31 % 200 + k},{int(k == 0)},0,{user % 2},{user % 7},{history}" for k in range(4)]
    return _lines(folder / "ctr_data.csv", header)


def yambda(folder: Path) -> str:
    """Yambda's flat files: unsigned integers, times that count from no known start."""
    return _parquet(
        folder / "listens.parquet",
        uid=pa.array([n % 9 for n in range(200)], pa.uint32()),
        timestamp=pa.array([39420 + 5 * n for n in range(200)], pa.uint32()),
        item_id=pa.array([n * 7 % 90 for n in range(200)], pa.uint32()),
        is_organic=pa.array([n % 2 for n in range(200)], pa.uint8()),
        played_ratio_pct=pa.array([n % 101 for n in range(200)], pa.uint16()),
    )


def trivago(folder: Path) -> str:
    """trivago: a row a step of a session; impressions and prices as texts, the click in another column."""
    lines = ["user_id,session_id,timestamp,step,action_type,reference,city,impressions,prices"]
    for n in range(60):
        for step in (1, 2):
            shown = [str(1000 + n + k) for k in range(4)]
            start = f"U{n % 25},S{n},{1541037460 + n * 100 + step},{step}"
            if step == 1:
                lines.append(f'{start},search for poi,Port,"Sydney, Australia",,')
            else:
                lines.append(
                    f'{start},clickout item,{shown[2]},"Sydney, Australia",{"|".join(shown)},61|70|88|{n + 50}'
                )
    return _lines(folder / "train.csv", lines)


def hm(folder: Path) -> str:
    """H&M: a row a purchase; articles with leading zeros."""
    rows = (f"2018-09-{n % 28 + 1:02d},{n % 40:064x},0{108775015 + n},0.0508,{n % 2 + 1}" for n in range(200))
    return _lines(folder / "transactions_train.csv", ["t_dat,customer_id,article_id,price,sales_channel_id", *rows])


def amazon(folder: Path) -> str:
    """Amazon reviews with histories: a text of items, oldest first."""
    rows = []
    for user in range(30):
        items = [f"B{user * 100 + k:09d}" for k in range(6)]
        rows += [
            f"A{user},{items[k]},{k % 5 + 1}.0,{1588687728923 + user * 7919 + k},{' '.join(items[:k])}"
            for k in range(6)
        ]
    return _lines(folder / "Books.train.csv", ["user_id,parent_asin,rating,timestamp,history", *rows])


def movielens(folder: Path) -> str:
    """MovieLens: a row a rating."""
    rows = (f"{n % 9 + 1},{n * 7 % 90},{n % 10 / 2 + 0.5},{964982703 + n * 1000}" for n in range(200))
    return _lines(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *rows])


def criteo(folder: Path) -> str:
    """Criteo's display advertising file: no header, no user, no item, no time."""
    rows = (
        "\t".join([str(n % 2), *[str(n * k % 99) for k in range(13)], *[f"{n * k:08x}" for k in range(26)]])
        for n in range(99)
    )
    return _lines(folder / "train.tsv", rows)


def ebnerd(folder: Path) -> str:
    """EB-NeRD's behaviors.parquet: candidates and clicks as lists."""
    shown = [[9000000 + n * 5 % 40 + k for k in range(3 + n % 4)] for n in range(120)]
    return _parquet(
        folder / "behaviors.parquet",
        impression_id=pa.array(range(120), pa.uint32()),
        article_id=pa.array([None] * 119 + [5], pa.int32()),
        impression_time=pa.array([dt.datetime(2023, 5, 21, 12, 0, n % 60) for n in range(120)], pa.timestamp("us")),
        article_ids_inview=pa.array(shown, pa.list_(pa.int32())),
        article_ids_clicked=pa.array([[row[0]] for row in shown], pa.list_(pa.int32())),
        user_id=pa.array([n % 30 for n in range(120)], pa.uint32()),
    )


def padded(folder: Path) -> str:
    """A log as trainers keep it: lists of one size, newest first, zeros behind; ratings of 0 are ratings."""
    length = [n % 6 for n in range(40)]
    rows = range(160)
    return _parquet(
        folder / "padded.parquet",
        user_id=[n // 8 for n in rows], request_id=[n // 4 for n in rows], item_id=[n * 7 % 90 for n in rows],
        label=[n % 2 for n in rows], request_time=[1700000100 + n // 4 for n in rows],
        hist=[[100 + k for k in range(length[n // 4])] + [0] * (5 - length[n // 4]) for n in rows],
        hist_time=[[1700000000 - 7 * k for k in range(length[n // 4])] + [0] * (5 - length[n // 4]) for n in rows],
        hist_rating=[[k % 2 for k in range(length[n // 4])] + [0] * (5 - length[n // 4]) for n in rows],
    )  # fmt: skip


# Name -> what writes it, and what is expected of infer-schema: keys of the schema file, or the role that is missing.
_AT_TIME = {"request": ["timestamp"]}
PUBLIC_LOGS: dict[str, tuple[Callable[[Path], str], dict[str, Any]]] = {
    "mind": (mind, {
        "header": [f"column_{n}" for n in range(1, 6)], "user": "column_2", "request": ["column_1"], "item": "item_id",
        "labels": ["label"], "event_time": {"column": "column_3", "unit": "M/d/yyyy h:mm:ss a"},
        "candidates": {"column_5": "*"},
        "forms": {"column_4": {"split": " "},
                  "column_5": {"pairs": "-", "fields": {"item_id": "string", "label": "int"}}}}),
    "kuairand": (kuairand, {
        "user": "user_id", "request": ["time_ms"], "item": "video_id", "labels": ["is_click"],
        "event_time": {"column": "time_ms", "unit": "ms"}}),
    "otto": (otto, {"missing": "request"}),
    "retailrocket": (retailrocket, {
        "user": "visitorid", "item": "itemid", "labels": ["event"], **_AT_TIME,
        "event_time": {"column": "timestamp", "unit": "ms"}}),
    "tenrec": (tenrec, {"missing": "request"}),
    "yambda": (yambda, {"user": "uid", "item": "item_id", "labels": ["played_ratio_pct"], **_AT_TIME}),
    "trivago": (trivago, {
        "user": "user_id", "request": ["session_id", "step"], "item": "item_id", "labels": ["label"],
        "event_time": {"column": "timestamp", "unit": "s"},
        "candidates": {"impressions": "item_id", "prices": "price", "label": "label"},
        "forms": {"impressions": {"split": "|"}, "prices": {"split": "|", "type": "bigint"},
                  "label": {"among": "impressions", "chosen": "reference"}}}),
    "hm": (hm, {"user": "customer_id", "request": ["t_dat"], "item": "article_id", "event_time": "t_dat"}),
    "amazon": (amazon, {
        "user": "user_id", "item": "parent_asin", "labels": ["rating"], **_AT_TIME,
        "event_time": {"column": "timestamp", "unit": "ms"}, "forms": {"history": {"split": " "}}}),
    "movielens": (movielens, {
        "user": "userId", "item": "movieId", "labels": ["rating"], **_AT_TIME,
        "event_time": {"column": "timestamp", "unit": "s"}}),
    "criteo": (criteo, {"missing": "request"}),
    "ebnerd": (ebnerd, {
        "user": "user_id", "request": ["impression_id"], "item": "item_id", "labels": ["label"],
        "event_time": "impression_time", "candidates": {"article_ids_inview": "item_id", "label": "label"},
        "forms": {"label": {"among": "article_ids_inview", "chosen": "article_ids_clicked"}}}),
    "padded": (padded, {
        "user": "user_id", "request": ["request_id"], "item": "item_id", "labels": ["label"],
        "event_time": {"column": "request_time", "unit": "s"},
        "forms": {
            "hist": {"order": "newest-first", "padding": {"value": 0, "side": "right"}},
            "hist_time": {"order": "newest-first", "padding": {"value": 0, "side": "right"}},
            "hist_rating": {"order": "newest-first", "padding": {"like": "hist", "side": "right"}}}}),
}  # fmt: skip
