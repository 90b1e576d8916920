"""Data sets of the hub, by `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def data_set(source: str, **options: Any) -> Iterator[Any]:
    """Open a data set by its name; an error while it is read becomes a ValueError that names it.

    Args:
        source: name on the hub, with a configuration behind a colon where it has several.
        options: as `datasets.load_dataset` takes them.

    Raises:
        ValueError: `datasets` is not installed, or it cannot be read; the message begins with the name of what may
            have been meant as a file.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ValueError(
            f"there is no file or folder {source}; to read it as a data set, install 'softmaxkit[tasks]'"
        ) from None
    name, _, configuration = source.partition(":")
    try:
        yield load_dataset(name, configuration or None, **options)
    except ValueError as error:
        raise ValueError(f"the data set {source}: {error}") from None
    except Exception as error:  # what it raises is many things
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"there is no file or folder {source}, and as a data set it cannot be read: {first}") from None
