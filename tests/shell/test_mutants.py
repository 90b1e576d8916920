"""Every fragment of source that a test of a fault replaces exists: slow tests do not go stale unnoticed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

TESTS = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))


def replaced(tests: ModuleType) -> Iterator[str]:
    """Yield the fragments that the tests of a module replace: arguments called `right`, or third in a `MUTANTS`."""
    for name, value in vars(tests).items():
        if name.endswith("MUTANTS"):
            yield from (mutant[2] for mutant in value.values())
        for mark in getattr(value, "pytestmark", ()) if inspect.isfunction(value) else ():
            if mark.name == "parametrize" and "right" in (names := mark.args[0]) and not isinstance(names, str):
                yield from (values[names.index("right")] for values in mark.args[1])


@pytest.mark.parametrize("name", TESTS)
def test_fragments_exist(name: str) -> None:
    tests = import_module(name)
    modules = [value for value in vars(tests).values() if isinstance(value, ModuleType)]
    sources = [inspect.getsource(module) for module in modules if module.__name__.startswith("softmaxkit.")]
    if sources:  # else the fragments are of generated files
        assert [right for right in replaced(tests) if 1 not in [source.count(right) for source in sources]] == []
