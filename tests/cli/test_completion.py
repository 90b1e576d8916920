"""Shell completion: Typer's script, and the completions of a partial word."""

from __future__ import annotations

from inspect import unwrap

import pytest
import typer

from softmaxkit.cli import main
from softmaxkit.methods import METHODS


def test_the_script_of_a_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1"
    )  # else Typer uses the shell that runs the tests
    monkeypatch.setattr("typer.main.get_command", unwrap(typer.main.get_command))  # which detects the shell
    with pytest.raises(SystemExit) as stopped:
        main(["--show-completion", "bash"])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    assert "_SOFTMAXKIT_COMPLETE=complete_bash" in script
    assert script.strip().endswith("complete -o default -F _softmaxkit_completion softmaxkit")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ver", ["verify"]),
        ("train ", [*METHODS]),
        ("verify ex", [name for name in METHODS if name.startswith("ex")]),
        ("verify a", ["all"]),
        ("calibrate model so", ["softermax"]),
        ("bench --method con", ["consmax"]),
        ("synth --cells ", ["sky130", "asap7", "ice40", "ecp5", "nexus", "xilinx"]),
        ("rtl exaq --storage l", ["latches"]),
        ("rtl exaq --constants ", ["baked", "loadable"]),
        ("evaluate model --mode ", ["float", "integer", "both"]),
        ("train exaq --mode i", ["integer"]),
    ],
)
def test_words(
    line: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_SOFTMAXKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"softmaxkit {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == words
