"""Register slices between shell and unit: one cycle each, no combinational path, no loss, rows and writes in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mutants import broken
from shell_bench import ShellBench, rows_for, shell_stream
from test_shell import KEPT, NUMBERED, SETS, run, waits_and_loads

from softmaxkit.blocks import queue as queue_module
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.paths import combinational_paths
from softmaxkit.flow.simulate import Verilated, can_verilate
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods import ALL_METHODS, METHODS, method_class
from softmaxkit.shell import register_slice as slice_module
from softmaxkit.shell.options import SLICED, ShellOptions
from softmaxkit.shell.rows_inside import max_rows_inside
from softmaxkit.shell.unit_in_shell import UnitInShell

pytestmark = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
HARDEST = max((method_class(method)() for method in METHODS), key=waits_and_loads)
LOADABLE = [method for method in ALL_METHODS if waits_and_loads(method_class(method)())[0]]


def test_rows_and_writes_in_order() -> None:
    assert run(HARDEST, ShellOptions(keep=True, register_slice="both"), 2000) > 1500


@pytest.mark.slow
@pytest.mark.parametrize("options", [KEPT, {**NUMBERED, "tags": 3}, {}], ids=["kept", "everything", "alone"])
@pytest.mark.parametrize("where", SLICED)
@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_method(method: str, where: str, options: dict[str, Any]) -> None:
    assert run(method_class(method)(), ShellOptions(**options, register_slice=where), 4000) > 3000


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"read_back": True}], ids=str)
@pytest.mark.parametrize("method", LOADABLE)
def test_sets_of_the_unit(method: str, more: dict[str, Any]) -> None:
    options = ShellOptions(**SETS, **more, register_slice="both")
    assert run(method_class(method)(), options, 2000, sets=2) > 1500


def cycles(method: str, where: str, lengths: tuple[int, ...], tags: int) -> list[tuple[int, set[int]]]:
    """Return, by length, a row's cycles from first beat to last result, and the set of those between first beats."""
    spec, options = method_class(method)(), ShellOptions(keep=True, tags=tags, register_slice=where)
    unit, random = spec.unit(lanes=2, max_row=16, constants=spec.examples()[0]), np.random.default_rng(0)
    bench = ShellBench(unit, options)
    simulator, counted = Verilated(bench, fast=False), []
    for length in lengths:
        rows = rows_for(unit, spec.examples()[0], options, 400, random)
        beats = -(-length // 2)
        rows.beats[:], rows.attended[:], rows.kept[:] = beats, True, np.arange(rows.codes.shape[1]) < length
        given = shell_stream(bench, unit, options, [(spec.examples()[0], rows)], random)
        outcome = simulator.run(given, Traffic(), cycles=True)
        assert outcome.faults(given) == []
        begins, ends = outcome.taken_at[::beats].astype(int), outcome.given_at[beats - 1 :: beats].astype(int)
        counted.append((int(ends[0] - begins[0]), {*np.diff(begins[len(begins) // 2 :]).tolist()}))
    return counted


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name == "consmax" else pytest.mark.slow) for name in METHODS]
)
def test_a_slice_costs_a_cycle_and_no_throughput(method: str) -> None:
    """With tags and `tkeep`, whose queues have an entry for every row inside."""
    unit, lengths = method_class(method)().unit(lanes=2, max_row=16), (1, 14, 16)
    for where, slices in (("", 0), ("scores", 1), ("results", 1), ("both", 2)):
        right = [(unit.latency(length) + slices, {unit.interval(length)}) for length in lengths]
        assert cycles(method, where, lengths, 2) == right


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_rows_of_every_length_have_places(method: str, lanes: int) -> None:
    """A row enters in the cycle in which one that entered `latency` cycles before still counts as inside."""
    unit = method_class(method)().unit(lanes=lanes, max_row=40)
    for slices in (0, 2):
        inside = [(unit.latency(length) + slices) // unit.interval(length) for length in range(1, unit.max_row + 1)]
        assert max_rows_inside(unit, slices) == max(inside) + 1


@pytest.mark.parametrize("method", ["consmax", pytest.param("exaq", marks=pytest.mark.slow)])
def test_no_combinational_path_crosses_a_slice(method: str) -> None:
    """There is none between the shell's ports and the unit's streams; without slices there are some."""

    def paths(where: str) -> set[tuple[str, str]]:
        spec = method_class(method)()
        unit, options = spec.unit(lanes=1, max_row=8), ShellOptions(keep=True, status=True, register_slice=where)
        shell = UnitInShell(unit, options).shell
        ends = combinational_paths({"shell": to_verilog(shell, "shell")})["shell"]
        inner = ("scores_", "results_")
        return {
            (start, end) for start, end in ends if any(name.startswith(inner) for name in (start, end))
        }  # the stream of constants bypasses the slices

    assert {name.split("_")[0] for path in paths("") for name in path} >= {"scores", "results"}
    assert not any("scores_" in name for path in paths("scores") for name in path)
    assert not any("results_" in name for path in paths("results") for name in path)
    assert not paths("both")


def test_other_streams_are_refused() -> None:
    unit = HARDEST.unit(lanes=1)
    with pytest.raises(ValueError, match=r"for scores, results, both, not 'result'; did you mean 'results'"):
        ShellOptions(register_slice="result").check(unit)


MUTANTS = {
    "drops": (queue_module, "connect_by_queue", "source.ready.eq(~filled[-1])", "source.ready.eq(1)"),
    "repeats": (
        queue_module,
        "connect_by_queue",
        "leaves = sink.valid & sink.ready",
        "leaves = sink.ready & filled[-1]",
    ),
    "mixes": (queue_module, "connect_by_queue", "words[min(place + 1, self.places - 1)]", "words[place]"),
    "changes": (queue_module, "connect_by_queue", "with m.If(comes | (leaves & more))", "with m.If(source.valid)"),
    "writes ahead": (slice_module, "WritesApart", "source.valid & ~self.busy", "source.valid"),
    "loses writes": (slice_module, "WritesApart", "sink.ready & ~self.busy", "sink.ready"),
}
"""Rows that begin although they must wait for writes are left to the proofs: this bench offers no such rows."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_faults_show(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, right, wrong = MUTANTS[mutant]
    monkeypatch.setattr(slice_module, name, broken(module, name, right, wrong))
    with pytest.raises(AssertionError):
        run(HARDEST, ShellOptions(keep=True, register_slice="both"), 3000)
