"""Standard output and standard error whose reader may go away, as that of `| head` does."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Dropping(io.FileIO):
    """A file that drops what its reader no longer takes; all other failures are errors, such as a full disk."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


@contextmanager
def unread_is_dropped() -> Iterator[None]:
    """Let a verb go on without its readers: its files are still wanted, and its exit code tells how it ended."""
    with _dropping("stdout"), _dropping("stderr"):
        yield


@contextmanager
def _dropping(name: str) -> Iterator[None]:
    """Replace the process's stream of a name; one that is redirected within Python, or closed, stays as it is."""
    stream: TextIO | None = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
        yield
        return
    stream.flush()
    raw = io.BufferedWriter(_Dropping(stream.fileno(), "w", closefd=False))
    own = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
    setattr(sys, name, own)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        with suppress(OSError):  # reported already, where it was to be written
            own.close()
