"""Progress without a terminal: few lines, each with the work done and the time left; notes that are not wrapped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from softmaxkit.cli import console
from softmaxkit.cli.console import stages, write_record

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
