"""The provenance of a record as text: command, inputs, versions and results."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softmaxkit.report.record import MODES, Variant


def subject(record: Mapping[str, Any]) -> list[str]:
    """Return a short description of each input, e.g. its name."""
    facts = []
    for key, value in _mapping(record.get("inputs")).items():
        if isinstance(value, Mapping):
            value = value.get("name") or value.get("kind")
        if value is not None:
            facts.append(f"{key} {_text(value)}")
    return facts


def command(record: Mapping[str, Any]) -> str:
    """Return the command line, quoted for a shell; empty if the record has none."""
    words = record.get("command") or ()
    return words if isinstance(words, str) else shlex.join(str(word) for word in words)


def sections(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections "Inputs" and "Versions", each with a list of names and values."""
    inputs = list(_flattened(_mapping(record.get("inputs"))))
    if "seed" in record:
        inputs.append(("seed", _text(record["seed"])))
    named = {"softmaxkit": record["softmaxkit"]} if "softmaxkit" in record else {}
    versions = list(_flattened({**named, **_mapping(record.get("versions"))}))
    return [(heading, entries) for heading, entries in (("Inputs", inputs), ("Versions", versions)) if entries]


def recorded(variant: Variant) -> list[tuple[str, str]]:
    """Return each mode's result as JSON, without the series that the charts draw."""
    return [
        (mode, json.dumps({key: value for key, value in result.items() if key != "series"}, indent=2, default=str))
        for mode in MODES
        if (result := variant.results.get(mode))
    ]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _flattened(values: Mapping[str, Any], parents: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{parents}{key} ")
        else:
            yield f"{parents}{key}", _text(value)


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(part) for part in value) or "none"
    return str(value)
