"""Every registered method has its own cases, and their oracles share no code with the package."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest
from cases import BY_METHOD, FOLDER

import oracle
from softmaxkit.methods import METHODS


def missing_files(methods: Iterable[str]) -> list[str]:
    """Return the required files of these methods that are missing."""
    return [f"tests/methods/cases/{method}.py" for method in methods if not (FOLDER / f"{method}.py").is_file()]


def test_every_method_has_cases() -> None:
    missing = missing_files(METHODS)
    assert not missing, f"write {', '.join(missing)}: a MethodCases, see tests/methods/method_cases.py"
    assert set(BY_METHOD) == set(METHODS)
    assert {path.stem for path in FOLDER.glob("[!_]*.py")} == set(METHODS), "cases of no registered method"


def test_a_method_without_cases_is_reported() -> None:
    assert missing_files([*METHODS, "other"]) == ["tests/methods/cases/other.py"]


@pytest.mark.parametrize("method", BY_METHOD)
def test_cases_belong_to_their_method_and_are_sufficient(method: str) -> None:
    cases = BY_METHOD[method]
    assert cases.default.spec == METHODS[method]()
    specs = [
        *(case.spec for case in [*cases.specs, *cases.oracle_cases]),
        *(unit.spec for unit in [*cases.narrow.values(), cases.proof]),
        *(spec for spec, *_ in [*cases.changed_specs, *cases.changed_constants, *cases.timed, *cases.refused_units]),
        *(spec for spec in [*cases.units, *cases.reloaded, *cases.forms]),
    ]
    assert {spec.method for spec in specs} == {method}
    assert len({str(case) for case in cases.specs}) == len(cases.specs)
    assert sum(case.thousands for case in cases.oracle_cases) >= 100
    assert {fault.unit for fault in cases.faults} <= set(cases.narrow)
    assert any(case.unit for case in cases.specs), "the fast tests verify no unit of this method"


def imported(path: Path) -> list[tuple[str, str]]:
    """Return what a file imports from the package at run time, as (module, name)."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    names = [
        (node.module or "", alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    names += [(alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return [(module, name) for module, name in names if module.startswith("softmaxkit")]


@pytest.mark.parametrize("method", BY_METHOD)
def test_oracles_are_independent(method: str) -> None:
    """They may import only classes from the package: specs, formats and constants, to read their fields."""
    assert imported(Path(oracle.__file__)) == []
    for module, name in imported(FOLDER / f"{method}.py"):
        assert module in ("softmaxkit", f"softmaxkit.methods.{method}", "softmaxkit.methods.base.constants")
        assert name[:1].isupper(), f"{name} of {module}"
