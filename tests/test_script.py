"""Modules with a command of their own: help, and one line for what is wrong."""

from __future__ import annotations

import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

import softmaxkit
from softmaxkit.script import one_line_errors

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

PACKAGE = Path(softmaxkit.__file__).parent
COMMANDS = sorted(
    ".".join(("softmaxkit", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if path.read_text(encoding="utf-8").rstrip().endswith('if __name__ == "__main__":\n    main()')
)
"""Every module that runs with `python -m`, but `softmaxkit` itself, which tests/cli is about."""

WRONG = {
    "softmaxkit.flow.cells.processes": [
        [],
        ["sky130"],
        ["sky131", "a.lib"],
        ["sky130", "missing.lib"],
        ["sky130", "."],
        ["sky130", "empty"],
    ],
    "softmaxkit.simulation.arrays": [
        ["--cells", "sky131"],
        ["--size", "4x4"],
        ["--size", "axbxc"],
        ["--size", "0x4x8"],
        ["--clock", "0"],
        ["--clock", "nan"],
        ["--spec", "missing.json"],
        ["--spec", "."],
        ["--spec", "empty"],
    ],
    "softmaxkit.studies.papers": [["--clock", "8"]],
}


def exit_code(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns of modules that are imported already
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(module, ["--help"], monkeypatch) == 0
    assert f"python -m {module}" in capsys.readouterr().out


@pytest.mark.parametrize("module", COMMANDS)
def test_wrong_input_is_one_line(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    for arguments in WRONG[module]:
        assert exit_code(module, arguments, monkeypatch) == 2, arguments
        assert "error: " in capsys.readouterr().err.splitlines()[-1]


def stop() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise RuntimeError("a tool failed\nwith two lines")


@pytest.mark.parametrize(("work", "code", "said"), [(stop, 130, "error: stopped"), (fail, 1, "with two lines")])
def test_failures_and_ctrl_c(
    work: Callable[[], None], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors(ArgumentParser()):
        work()
    assert ended.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == said
