"""Progress in lines without a terminal, and as bars in wide and narrow ones; notes and tables that are not cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from softmaxkit.cli import console
from softmaxkit.cli.console import results_console, stages, write_record
from softmaxkit.cli.screen import Screen

Shown = Callable[[list[tuple[float, int]]], list[str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Return the output of a stage of 1400 steps, given its completed steps at various times in seconds."""

    def show(steps: list[tuple[float, int]]) -> list[str]:
        clock = [0.0]
        monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
        with stages() as stage:
            advance = stage("train exaq")
            for clock[0], done in steps:
                advance(done, 1400)
        return capsys.readouterr().err.splitlines()

    return show


def test_a_short_stage_is_its_title(shown: Shown) -> None:
    assert shown([(second, 140 * second) for second in range(1, 11)]) == ["train exaq"]


def test_a_line_every_ten_seconds(shown: Shown) -> None:
    lines = shown([(second / 2, 5 * second) for second in range(1, 281)])
    assert len(lines) == 14
    assert lines[:2] == ["train exaq", "train exaq: 100 of 1400, 2 min 10 s left"]
    assert lines[-1] == "train exaq: 1300 of 1400, 10 s left"


def test_resumed_work_is_timed_from_its_checkpoint(shown: Shown) -> None:
    assert shown([(5, 700), (25, 800)])[1:] == ["train exaq: 800 of 1400, 2 min 0 s left"]


def test_hours(shown: Shown) -> None:
    assert shown([(0, 0), (100, 10)])[1:] == ["train exaq: 10 of 1400, 3 h 51 min left"]


def test_notes_stay_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    write_record({}, tmp_path / "a name with blanks, longer than the terminal is wide.json")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_figures_that_are_not_finite_are_null_on_standard_output_too(capsys: pytest.CaptureFixture[str]) -> None:
    write_record({"loss": float("inf"), "curve": [float("nan")]}, Path("-"))
    assert json.loads(capsys.readouterr().out) == {"loss": None, "curve": [None]}


@pytest.mark.parametrize(("width", "bar"), [(40, False), (60, False), (80, True), (120, True)])
def test_progress_keeps_its_numbers_at_every_width(width: int, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "console", Screen(file=screen, force_terminal=True, width=width))
    with stages() as stage:
        stage("verify exaq 2 bits, gaussian clip loadable")(2_000_000, 2_000_000)
    (line,) = {line for line in re.sub(r"\x1b\[[0-9;?]*\w", "", screen.getvalue()).splitlines() if "2000000" in line}
    assert re.match(r"verify exaq 2 ", line)
    assert re.search(r" 2000000/2000000( 0:00:00)+ *$", line)
    assert ("━" in line) == bar
    assert len(line) <= width


@pytest.mark.parametrize("path", [None, Path("-")])
def test_tables_in_a_log_have_room(path: Path | None, capsys: pytest.CaptureFixture[str]) -> None:
    results_console(path).print("word " * 31)
    out, err = capsys.readouterr()
    assert len((err if path else out).rstrip().splitlines()) == 1
