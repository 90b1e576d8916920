"""The status of a shell: error flags, counts of saturated codes, and `busy`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cycles import Sink, Source, clocked
from mutants import broken
from shell_bench import ShellBench, rows_for, shell_stream

from softmaxkit.methods import METHODS, method_class
from softmaxkit.shell import rows_inside, shell, status, unit_in_shell
from softmaxkit.shell.options import ShellOptions

OPTIONS = ShellOptions(keep=True, status=True)
SLICED = replace(OPTIONS, register_slice="both")
ENABLED = 1


def words(packed: Any) -> list[int]:
    return [int.from_bytes(row.astype("<u4").tobytes(), "little") for row in packed]


def check_status(method: str, too_long: bool, options: ShellOptions = OPTIONS, outputs: int = 120) -> None:
    """Send rows, clear flags and counts, and send the rows again."""
    spec = method_class(method)()
    constants, numbers = spec.examples()[0], np.random.default_rng(3)
    unit = spec.unit(lanes=2, max_row=5, constants=constants)
    bench = ShellBench(unit, options)
    rows = rows_for(unit, constants, options, outputs, numbers, too_long)
    ends = [int(code) for code in spec.encode(np.asarray([-1e6, 1e6]), constants)]
    rows.codes[::3, ::2] = ends[1]
    rows.codes[1::3] = ends[0]
    given = shell_stream(bench, unit, options, [(constants, rows)], numbers)
    place = np.arange(rows.codes.shape[1])
    fitting = place < (unit.max_row if unit.holds_rows else len(place))
    mask = rows.kept & rows.attended & fitting & (place < 2 * rows.beats[:, None])
    most = unit.max_row if unit.holds_rows else len(place)
    golden = spec.golden(np.where(mask, rows.codes, 0)[:, :most], mask[:, :most], constants)
    scores = int((mask & np.isin(rows.codes, ends)).sum())
    results = int((golden == (1 << unit.result_bits) - 1).sum())
    spilt = unit.holds_rows and bool(((rows.beats > 3) | (rows.kept & (place >= 5)).any(axis=1)).any())
    assert scores > 0
    counts = {"errors": int(spilt), "irq": int(spilt), "saturated_scores": scores, "saturated_results": results}
    for pause in (0.0, 0.4):
        sent_and_counted(bench, words(given.scores), len(given.results), counts, pause)


def sent_and_counted(bench: ShellBench, beats: list[int], results: int, counts: dict[str, int], pause: float) -> None:
    """Send beats twice, with a clear in between, and check flags and counts."""
    rng, top = random.Random(0), bench.shelled
    source, sink = Source(bench.scores, beats * 2, pause, rng), Sink(bench.results, pause, rng)
    quiet, turn = 0, 0

    def cycle(at: int, context: Any) -> bool | None:
        nonlocal quiet, turn
        context.set(top.interrupt_enable, ENABLED)
        source.drive(context, source.sent < len(beats) * (turn + 1))
        sink.drive(context)
        first = source.sent > len(beats) * turn and len(sink.words) == results * turn
        rest = source.sent == len(beats) * (turn + 1) and len(sink.words) < results * (turn + 1)
        if first or rest:
            assert context.get(top.busy)
        given, taken = sink.given(context) is not None, source.taken(context)
        quiet = 0 if given or taken else quiet + 1
        clear = quiet == 40
        for name in ("errors_clear", "saturated_scores_clear", "saturated_results_clear"):
            context.set(getattr(top, name), (3 if name == "errors_clear" else 1) * clear)
        if clear:
            assert len(sink.words) == results * (turn + 1)
            assert not context.get(top.busy)
            assert {name: context.get(getattr(top, name)) for name in counts} == counts
        if quiet == 41:
            assert not any(context.get(getattr(top, name)) for name in counts)
            turn += 1
        return None if turn == 2 else False

    clocked(bench, cycle, 40 * len(beats))
    assert turn == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [OPTIONS, SLICED], ids=["plain", "sliced"])
@pytest.mark.parametrize("method", METHODS)
def test_saturated_codes_are_counted(method: str, options: ShellOptions) -> None:
    check_status(method, False, options)


@pytest.mark.parametrize("options", [OPTIONS, SLICED], ids=["plain", "sliced"])
def test_long_rows_are_flagged(options: ShellOptions) -> None:
    waiting = next(method for method in METHODS if method_class(method)().unit(lanes=1).holds_rows)
    check_status(waiting, True, options, outputs=40)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "right", "wrong"),
    [
        (status, "saturated_scores", "beat.mask[lane] & (", "("),
        (status, "saturated_scores", "(code == ends[0]) | (code == ends[1])", "(code == ends[0])"),
        (status, "saturated_results", ".all()", ".any()"),
        (status, "Status", "(self.errors & ~self.clear) | self.raised", "self.errors | self.raised"),
        (status, "Status", "(self.errors & self.enable).any()", "self.errors.any() & 0"),
        (rows_inside, "RowsInside", "count + self.begins - self.ends", "count + self.begins"),
    ],
)
def test_faults_show(module: Any, name: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, name, broken(module, name, right, wrong))
    waiting = next(method for method in METHODS if method_class(method)().unit(lanes=1).holds_rows)
    with pytest.raises(AssertionError):
        check_status(waiting, too_long=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            "rows.ends.eq(self.m_axis.tvalid & self.m_axis.tready & self.m_axis.tlast)",
            "rows.ends.eq(self.results.valid & self.results.ready & self.results.p.last)",
        ),
        ("rows.begins.eq(starts)", "rows.begins.eq(self.scores.valid & self.scores.ready & self.scores.p.last)"),
    ],
)
def test_rows_in_a_slice_are_inside(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_in_shell, "Shell", broken(shell, "Shell", right, wrong))
    with pytest.raises(AssertionError):
        check_status("consmax", False, SLICED)
