"""Whether files are still those that were found: a log is read more than once, and must be one log each time. Pure.

Storage tells a file's size and time of change. Two files of one size that were put in one place within the same tick of
its clock (a second on S3, some milliseconds on a local disk) are not told apart.
"""

from __future__ import annotations

import pyarrow.fs as pafs

from dedup_storage.errors import InputError
from dedup_storage.sources.address import Address

__all__ = ["require_unchanged"]


def require_unchanged(address: Address) -> None:
    """Refuse files that others took the place of since the address was looked at; new ones beside them do not count.

    Args:
        address: What was looked at. Files whose time of change nobody told, as those of a table's log, are not asked.

    Raises:
        InputError: names the first file that is gone or another one.
    """
    told = [f for f in address.files if f.changed_ns is not None]
    if not told:
        return
    filesystem, inner = address.store(address.place)
    alone = len(address.files) == 1 and address.files[0].path == address.place
    # One listing, as at first: a look at each file would be a request each.
    asked = [inner] if alone else pafs.FileSelector(inner, recursive=True, allow_not_found=True)
    now = {address.place + info.path[len(inner) :]: info for info in filesystem.get_file_info(asked)}
    for file in told:
        info = now.get(file.path)
        if info is None or not info.is_file:
            what, got = "is not there any more", None
        elif (info.size, info.mtime_ns) != (file.size_bytes, file.changed_ns):
            sizes = (file.size_bytes, info.size)
            what = "was changed while it was read"
            got = "another time of change" if sizes[0] == sizes[1] else f"{sizes[0]} bytes at first, {sizes[1]} now"
        else:
            continue
        raise InputError(
            f"the file {file.path} {what}",
            expected="files that stay as they are until the job is done",
            got=got,
            fix="Nothing was written. Run again when nothing else writes to the log; let new rows come in new files.",
        )
