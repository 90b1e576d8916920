"""The stored records of simulations equal the results of the current code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softmaxkit.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

KEPT = [
    path
    for path in sorted(Path("results/accelerator").glob("*.json"))
    if json.loads(path.read_text())["command"][1] == "simulate"
]


def simulated(record: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Run a record's command again, and return its results."""
    words = record["command"][1:]
    words[words.index("--json") + 1] = str(path)
    assert main(words) == 0
    results: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return results


def check_same(value: Any, expected: Any) -> None:
    """Compare results; floats within 1e-12, since sum() rounds less from Python 3.12 on."""
    if isinstance(expected, dict):
        assert list(value) == list(expected)
        for name in expected:
            check_same(value[name], expected[name])
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            check_same(one, other)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=1e-12)
    else:
        assert value == expected


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_stored_record_equals_the_output_of_its_command(path: Path, tmp_path: Path) -> None:
    record = json.loads(path.read_text())
    check_same(simulated(record, tmp_path / "again.json"), record["results"])
