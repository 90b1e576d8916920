"""The rules of the house that a reader relies on: who asks which method it is, where imports point, what names say."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from softmaxkit.methods import METHODS

SOURCE = Path(__file__).parents[1] / "src" / "softmaxkit"
PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
CLASSES = {spec.__name__ for spec in METHODS.values()}
OUTSIDE = [path for path in sorted(SOURCE.rglob("*.py")) if "methods" not in path.relative_to(SOURCE).parts[:1]]
EXCEPTIONS: dict[str, str] = {}
"""Places outside `methods/` that may name a method, as "file:line", with the reason."""

LAYERS = (
    ("rounding", "formats", "tables", "masks", "files", "suggestions", "warning", "processes", "script"),
    ("blocks", "kernels"),
    ("methods",),
    ("fused_attention", "functional", "record", "recipe", "models", "flow", "shell", "explanation"),
    ("engine",),
    ("studies", "report", "simulation"),
    ("cli",),
)
"""Imports go downwards: what stands in one line knows only what stands above it, and what stands beside it."""

FILLERS = {"each", "found", "told"}
"""Words that say nothing about what an identifier is, alone or between underscores."""


def names_a_method(path: Path) -> list[str]:
    """Return where a file asks which method it has: classes by name, or the method's name in a string."""
    places = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = (
            (isinstance(node, ast.Constant) and node.value in METHODS)
            or (isinstance(node, ast.Name) and node.id in CLASSES)
            or (isinstance(node, ast.Attribute) and node.attr in CLASSES)
            or (isinstance(node, ast.ImportFrom) and any(alias.name in CLASSES for alias in node.names))
        )
        if named:
            places.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    return places


def test_nobody_outside_methods_asks_which_method_it_is() -> None:
    places = [place for path in OUTSIDE for place in names_a_method(path)]
    assert not sorted(set(places) - set(EXCEPTIONS))


@pytest.mark.parametrize(
    "text", ["isinstance(spec, Exact)", "spec == softmaxkit.Exact()", "x = {'exaq': 1}", "from softmaxkit import Exaq"]
)
def test_the_check_sees_who_asks(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    (tmp_path / "asks.py").write_text(text)
    assert names_a_method(tmp_path / "asks.py")


def room(name: str) -> int:
    return next(place for place, rooms in enumerate(LAYERS) if name in rooms)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if own.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                parts = module.split(".")
                if parts[0] == "softmaxkit" and len(parts) > 1 and room(parts[1]) > room(own):
                    wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno} imports {module}")
    assert not wrong


def names_with_fillers(text: str) -> list[str]:
    """Return the identifiers of a source that are or contain a filler, as "line: name"; imported names are others'."""
    places = []
    for node in ast.walk(ast.parse(text)):
        for field, content in ast.iter_fields(node):
            if isinstance(node, ast.Constant | ast.ImportFrom) or (isinstance(node, ast.alias) and field == "name"):
                continue
            for name in content if isinstance(content, list) else [content]:
                if isinstance(name, str) and FILLERS & set(name.lower().split("_")):
                    places.append(f"{getattr(node, 'lineno', '?')}: {name}")
    return places


def test_names_say_what_things_are() -> None:
    root = SOURCE.parents[1]
    paths = sorted(path for folder in ("src", "tests", "benchmarks") for path in (root / folder).rglob("*.py"))
    wrong = [
        f"{path.relative_to(root)}:{place}"
        for path in paths
        for place in names_with_fillers(path.read_text(encoding="utf-8"))
    ]
    assert paths
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("for each in rows:\n    print(each)", ["1: each", "2: each"]),
        ("def told(self, found_rows, *, rows_of_each=1): ...", ["1: told", "1: found_rows", "1: rows_of_each"]),
        ("class Found: ...", ["1: Found"]),
        ("rows.found[0] = f(each=1)", ["1: found", "1: each"]),
        ("import re as found", ["1: found"]),
        ("match rows:\n    case {**told}: ...", ["2: told"]),
        ("def f():\n    global found", ["2: found"]),
        ("from re import found\n'each'  # told\nreached, founded = f'found', rows", []),
    ],
)
def test_the_check_sees_names(text: str, names: list[str]) -> None:
    assert sorted(names_with_fillers(text)) == sorted(names)


def test_the_command_that_tests_a_wheel_passes() -> None:
    """Wheels are built elsewhere, where nobody would see that a name moved."""
    python, *arguments = shlex.split(PROJECT["tool"]["cibuildwheel"]["test-command"])
    assert python == "python"
    environment = {**os.environ, "SOFTMAXKIT_KERNELS": ""}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 or "AssertionError" in done.stderr, done.stderr  # without a compiler there are none


def test_a_wheel_lacks_only_the_sources_of_its_kernels() -> None:
    """An editable install reads the files here, and would not miss what a wheel leaves out."""
    patterns = PROJECT["tool"]["scikit-build"]["wheel"]["exclude"]
    left_out = {path for pattern in patterns for path in SOURCE.rglob(pattern)}
    assert left_out == {*SOURCE.glob("methods/*/native.cpp")}


def test_wheels_have_the_licences_of_the_cells_and_the_mark_of_a_typed_package() -> None:
    """The tables of ASAP7 may only be redistributed with their licence, which is in NOTICE."""
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    assert (SOURCE / "py.typed").exists()


def test_the_source_distribution_has_what_its_tests_read() -> None:
    left_out = PROJECT["tool"]["scikit-build"]["sdist"]["exclude"]
    assert {"tests", "docs", "benchmarks", "results"}.isdisjoint(left_out)
