"""Data sets from the Hugging Face hub, through the `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from softmaxkit.models.errors import first_line


@contextmanager
def data_set(source: str, **options: Any) -> Iterator[Any]:
    """Open a data set by its name; any error while it is read becomes a ValueError that names it.

    Args:
        source: name on the hub, followed by a colon and a configuration if the data set has several.
        options: passed to `datasets.load_dataset`.

    Raises:
        ValueError: `datasets` is not installed, or the data set cannot be read; the message also covers the case that
            `source` was meant as a file.
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
    except Exception as error:  # load_dataset raises errors of many types
        raise ValueError(
            f"there is no file or folder {source}, and as a data set it cannot be read: {first_line(error)}"
        ) from None
