"""Warnings name the line of the user's code that led to them, and nothing in the package warns otherwise."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import softmaxkit
from conftest import tiny_model

PACKAGE = Path(softmaxkit.__file__).parent
TOKENS = torch.arange(20)[None]


@pytest.mark.parametrize("through_torch", [False, True])
def test_a_warning_names_the_line_of_the_user(through_torch: bool) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), softmaxkit.Index(bits=7))
    softmaxkit.set_mode(model, "fused")
    call = torch.nn.Sequential(model) if through_torch else model
    with torch.no_grad(), pytest.warns(UserWarning, match="in float here") as warned:
        call(TOKENS)
    assert {warning.filename for warning in warned} == {__file__}


def test_one_place_warns() -> None:
    warning = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "warnings.warn"
    ]
    assert warning == ["warning.py"]
