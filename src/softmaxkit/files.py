"""Atomic writing of files and folders, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically like `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never part of it.

    Missing parent folders are created. An existing file keeps its permissions, and a link still points to its file.

    Raises:
        OSError: the file cannot be written, e.g. the disk is full; an existing file is then untouched.
    """
    if path.exists() and not path.is_file():  # a pipe or device cannot be replaced by renaming
        path.write_bytes(data)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            _copy_mode(path, temporary)  # before the data, which may be private
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically. NaN and infinities, which JSON cannot represent, become null."""
    write_text(path, json_text(data) + "\n")


def json_text(data: Any) -> str:
    """Return data as JSON; NaN and infinities, which JSON cannot represent, become null."""
    return json.dumps(_finite(data), indent=1, allow_nan=False)


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file of ours.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the error message.

    Raises:
        ValueError: it is damaged; the message names it.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; it replaces `path` if the block succeeds and is deleted if it raises.

    It has the permissions of the folder that it replaces.

    Raises:
        OSError: the folder cannot be written; whatever was at `path` is then still there.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    old = temporary.with_name(temporary.name + ".old")
    temporary.mkdir()
    try:
        _copy_mode(path, temporary)
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    """Return a new hidden name in the same folder; unlike `tempfile`, this leaves permissions to the umask."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def _copy_mode(path: Path, to: Path) -> None:
    """Give a file or folder the permissions of another one, if that exists."""
    if path.exists():
        shutil.copymode(path, to)


def content_key(*parts: Any) -> str:
    """Return a short hash of JSON-serialisable parts, for use as a cache key: equal parts give equal keys."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Return the folder for files that can be regenerated: $SOFTMAXKIT_CACHE, or `softmaxkit` in the user's cache.

    Raises:
        OSError: the folder cannot be created or written to; the message names the variable.
    """
    chosen = os.environ.get("SOFTMAXKIT_CACHE")
    folder = Path(chosen).expanduser().absolute() if chosen else user_cache_folder() / "softmaxkit"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        advice = "the cache cannot be written there; set SOFTMAXKIT_CACHE to a folder that can"
        raise OSError(error.errno, f"{error.strerror}: {advice}", str(folder)) from None
    return folder


def user_cache_folder() -> Path:
    """Return the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()).absolute()


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data
