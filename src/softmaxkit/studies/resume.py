"""Results that are kept on disk, so that a study that was stopped continues where it left off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from softmaxkit.files import content_key, write_json
from softmaxkit.record import versions

Results = list[dict[str, Any]]

RESULTS_FILE = "results.json"


def result_folder(parent: Path, name: str, *inputs: Any) -> Path:
    """Return the folder of whatever depends on some inputs: equal inputs, equal folder.

    The versions of softmaxkit and of the packages that figures depend on are always among the inputs.

    Args:
        parent: the folder that holds it.
        name: how its own name begins, for people.
        inputs: everything else that the results depend on, as values that JSON can hold.
    """
    return parent / f"{name}-{content_key(versions(), *inputs)}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Work in a folder as the only run that does.

    Raises:
        ValueError: another run is at work in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is at work in {folder}; wait for it to end, or give another --output") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held, so that nobody holds what is gone
        lock.release()


def resumed(
    folder: Path, measure: Callable[[], Results], diverged: Callable[[FloatingPointError], Results] | None = None
) -> Results:
    """Return the results in a folder; measure and keep them where there are none yet.

    Args:
        folder: of these results, see `result_folder`.
        measure: returns them.
        diverged: returns the results of a training or model that gave NaN or infinity, which are kept as well; None
            lets the error through.

    Raises:
        FloatingPointError: the measurement diverged, and `diverged` is None.
        OSError: the results cannot be written.
    """
    file = folder / RESULTS_FILE
    if file.is_file():
        kept: Results = json.loads(file.read_text(encoding="utf-8"))
        return kept
    try:
        results = measure()
    except FloatingPointError as error:
        if diverged is None:
            raise
        results = diverged(error)
    write_json(file, results)
    return results
