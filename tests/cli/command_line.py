"""Running a command line in a test, and the tools that hardware verbs need."""

from __future__ import annotations

import pytest

from softmaxkit.cli import main
from softmaxkit.flow import tools
from softmaxkit.flow.simulate import can_verilate

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
yosys = pytest.mark.skipif(not tools.find("yosys"), reason="needs Yosys")

SMALL = ("--lanes", 2, "--max-row", 8)
FEW = (*SMALL, "--outputs", 100)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]
