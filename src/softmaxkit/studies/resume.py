"""Store finished results on disk, so that a study that was stopped resumes where it left off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from softmaxkit.files import content_key, read_json, write_json
from softmaxkit.record import versions

Results = list[dict[str, Any]]

RESULTS_FILE = "results.json"


def result_folder(parent: Path, name: str, *inputs: Any) -> Path:
    """Return the folder of results that depend on some inputs; equal inputs give the same folder.

    The versions of softmaxkit and of the packages that figures depend on are always among the inputs.

    Args:
        parent: the parent folder.
        name: readable prefix of the folder's name.
        inputs: everything else on which the results depend, as JSON values.
    """
    return parent / f"{name}-{content_key(versions(), *inputs)}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no other run works in it.

    Raises:
        ValueError: another run has locked it.
        OSError: the parent folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{folder.name}.lock")
    try:
        file.touch()  # FileLock takes a failure to create its file for a lock that another process holds
    except OSError as error:
        why = f"{error.strerror}: no file can be created there; choose another --output"
        raise OSError(error.errno, why, str(folder.parent)) from None
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is using {folder}; wait for it to end, or choose another --output") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before the release: otherwise another run could lock the file being deleted
        lock.release()


def resumed(
    folder: Path, measure: Callable[[], Results], diverged: Callable[[FloatingPointError], Results] | None = None
) -> Results:
    """Return the results stored in a folder; if there are none yet, measure and store them.

    Args:
        folder: folder of these results, see `result_folder`.
        measure: measures and returns the results.
        diverged: returns the results to store if a training or model produced NaN or infinity; None re-raises the
            error.

    Raises:
        ValueError: the stored results are damaged; the message names their file.
        FloatingPointError: the measurement diverged, and `diverged` is None.
        OSError: the results cannot be written.
    """
    file = folder / RESULTS_FILE
    if not file.is_file():
        try:
            results = measure()
        except FloatingPointError as error:
            if diverged is None:
                raise
            results = diverged(error)
        write_json(file, results)
    # What was just measured is read back too: JSON has no infinity, and both times must give the same.
    stored: Results = read_json(file, "delete it, and its results are measured again")
    return stored
