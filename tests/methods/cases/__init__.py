"""The cases of each method, from the file with its name in this folder; `test_cases.py` requires one per method."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from method_cases import Case, MethodCases

from softmaxkit.methods import METHODS

FOLDER = Path(__file__).parent
BY_METHOD: dict[str, MethodCases] = {
    method: import_module(f"cases.{method}").CASES for method in METHODS if (FOLDER / f"{method}.py").is_file()
}
CASES: list[Case] = [case for cases in BY_METHOD.values() for case in cases.specs]
DEFAULTS: list[Case] = [cases.default for cases in BY_METHOD.values()]
UNITS = [spec for cases in BY_METHOD.values() for spec in cases.units or [cases.default.spec]]
