"""Receipts of erasures: read, proved unchanged, matched with a dataset and a list of users; the record of a run.

A receipt holds no id and no digest of a single one: whoever has it could try every id there may be. It holds one digest
of the whole list, salted and slow to compute.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pyspark.sql import DataFrame

from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, content_digest
from dedup_storage.errors import InputError, UsageError, known_names
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.requests import Request
from dedup_storage.spark.digests import rows_digest
from dedup_storage.words import counted

__all__ = ["ErasureRecord", "Receipt", "erasure_request", "list_digest", "read_receipt", "require_users"]

# What a receipt may be given as.
Receipt = ForgetSummary | Mapping[str, Any] | Path | str
_SCHEME, _ROUNDS = "pbkdf2-sha256", 200_000


class ErasureRecord(BaseModel):
    """What a dataset keeps of an erasure, by its run id.

    Attributes:
        request: What it was asked, as ``Request`` tells it.
        receipt: Its receipt; what it found when it began, until it is done.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    request: str
    receipt: ForgetSummary

    @property
    def done(self) -> bool:
        """Whether nothing of the users was left."""
        return self.receipt.clean is True

    @classmethod
    def of(cls, meta: DatasetMetadata, run_id: str) -> ErasureRecord | None:
        """The record of a run, if the dataset has one."""
        text = meta.erasures.get(run_id)
        return None if text is None else cls.model_validate_json(text)

    @classmethod
    def stopped(cls, meta: DatasetMetadata) -> list[str]:
        """Runs that were begun and are not done."""
        records = {run_id: cls.model_validate_json(text) for run_id, text in meta.erasures.items()}
        return [run_id for run_id, record in records.items() if not record.done]


def list_digest(users: DataFrame, like: str | None = None) -> str:
    """A digest of all of some users together, whatever their order.

    Args:
        users: The users, distinct, one column in the type they are stored in.
        like: A digest whose salt and number of rounds are taken; new ones when left out.

    Example: ``pbkdf2-sha256:200000:9f2c…:81b0…``
    """
    scheme, rounds, salt, _ = (like or f"{_SCHEME}:{_ROUNDS}:{secrets.token_hex(16)}:").split(":")
    told = pbkdf2_hmac("sha256", rows_digest(users).encode(), bytes.fromhex(salt), int(rounds))
    return f"{scheme}:{rounds}:{salt}:{told.hex()}"


def erasure_request(count: int, digest: str) -> Request:
    """What an erasure is asked to do."""
    return Request.of("forget-user").with_texts(users=f"{counted(count, 'id')} ({digest.rpartition(':')[2][:16]})")


def read_receipt(receipt: Receipt, meta: DatasetMetadata) -> ForgetSummary:
    """A receipt that is unchanged and of this dataset.

    Args:
        receipt: As it was returned, its JSON as a mapping, or the file of it.
        meta: The dataset.

    Raises:
        InputError: it cannot be read, is none, or was changed.
        UsageError: it is the receipt of another dataset, or of a run that the dataset does not know.
    """
    place = f"the receipt {receipt}" if isinstance(receipt, (str, Path)) else "the receipt given"
    content = _content(receipt, place)
    try:
        found = ForgetSummary.model_validate(content)
    except ValidationError:
        raise _no_receipt(place, "JSON of another kind") from None
    if found.digest is None or found.users_digest is None:
        raise _no_receipt(place, "the report of a dry run" if found.dry_run else "a report without a digest")
    digest = content_digest(content)
    if digest != found.digest:
        raise _changed(place, found.digest, digest)
    if meta.identity != found.dataset_id:
        same = " of before, or of another catalog" if found.dataset == meta.spec.name else ""
        raise UsageError(
            f"{place} is of another dataset",
            expected=f"a receipt of {meta.spec.name} ({meta.identity})",
            got=f"one of the dataset {found.dataset}{same} ({found.dataset_id})",
            fix="Name the dataset that it is of with --dataset.",
        )
    _require_known(place, found, meta)
    return found


def _require_known(place: str, found: ForgetSummary, meta: DatasetMetadata) -> None:
    """Refuse what the dataset knows otherwise: anybody can compute a digest anew."""
    kept = ErasureRecord.of(meta, found.run_id)
    if kept is None:
        known = sorted(meta.erasures)
        raise UsageError(
            f"{place} is of the run {found.run_id}, and {meta.spec.name} knows of no such erasure",
            expected=f"a receipt of {known_names(found.run_id, known)}" if known else "a dataset with an erasure",
            fix="Take the file as the erasure wrote it; forget-user with the users and its run id writes it again.",
        )
    if kept.done and kept.receipt.digest != found.digest:
        raise _changed(place, str(kept.receipt.digest), str(found.digest))
    # Of a run that is not done the dataset keeps what was found when it began.
    if not kept.done and (found.clean or found.users_digest != kept.receipt.users_digest):
        raise InputError(
            f"{place} is not what the erasure wrote: the run {found.run_id} is not done",
            expected="a receipt that says so, of the users whom it was begun with",
            got="one of a run that is done" if found.clean else "one of other users",
            fix="Finish the erasure: forget-user with the same users and run id.",
        )


def _changed(place: str, known: str, digest: str) -> InputError:
    return InputError(
        f"{place} was changed since the erasure wrote it: its content does not have its digest",
        expected=f"the digest {known}",
        got=digest,
        fix="Take the file as it was written; forget-user with the same users and run id writes it again.",
    )


def _content(receipt: Receipt, place: str) -> Mapping[str, Any]:
    if isinstance(receipt, ForgetSummary):
        return receipt.model_dump(mode="json")
    if isinstance(receipt, Mapping):
        return receipt
    try:
        content = json.loads(Path(receipt).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise _no_receipt(place, "a file that is no JSON") from None
    if not isinstance(content, Mapping):
        raise _no_receipt(place, "JSON of another kind")
    return content


def _no_receipt(place: str, got: str) -> InputError:
    return InputError(
        f"{place} is no receipt of an erasure",
        expected="the file that forget-user wrote with --json",
        got=got,
        fix="forget-user with the users and the run id of the erasure writes its receipt again.",
    )


def require_users(receipt: ForgetSummary, users: DataFrame, count: int) -> None:
    """Refuse another list of users than the one that was erased.

    Args:
        receipt: The receipt.
        users: The users, distinct, in the type they are stored in.
        count: Their number.

    Raises:
        UsageError: it is another list; tells the numbers.
    """
    if list_digest(users, receipt.users_digest) != receipt.users_digest:
        other = " others" if count == receipt.users else ""
        raise UsageError(
            f"the users given are not those whose erasure the receipt of run {receipt.run_id} certifies",
            expected=f"the list of {counted(receipt.users, 'id')} that was given then",
            got=f"{counted(count, 'id')}{other}",
            fix="Give the list of the erasure; a receipt holds no ids.",
        )
