"""Synthesis as a whole: figures that add up and are reproducible, from netlists that equal golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import softmaxkit
from softmaxkit import ConSmax, Exaq, Softermax
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.scores import KEYS, sample, sampled_rows
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.synthesize import CHECKED, CYCLES, Synthesis, chosen_library, part_of
from softmaxkit.flow.vectors import Rows

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
WHOLE = ConSmax(tables="whole")
WHOLE_UNIT = WHOLE.unit(lanes=1, constants=WHOLE.constants())


@pytest.fixture(scope="module")
def whole() -> Synthesis:
    return softmaxkit.synthesize(WHOLE_UNIT, wires=False)


@verilator
def test_figures_add_up(whole: Synthesis) -> None:
    figures = whole.figures()
    assert (figures["compared"] > 4000, figures["mismatches"], whole.faults) == (True, 0, ())
    assert figures["area_um2"] == pytest.approx(sum(whole.area.values()), abs=1e-3)
    cells = whole.mapped.netlist.library.cells
    counted = sum(cells[name].area * count for name, count in figures["instances_by_cell"].items())
    assert figures["area_um2"] == pytest.approx(counted, abs=1e-3)
    split = sum(figures[f"power_{kind}_mw"] for kind in ("switching", "internal", "clock", "leakage"))
    assert figures["power_mw"] == pytest.approx(split, rel=1e-9)
    # At one score per cycle, the energy per cycle is the energy per score.
    assert figures["power_mw"] * figures["clock_ns"] == pytest.approx(figures["energy_pj_per_element"], rel=1e-9)
    assert figures["energy_pj_per_row_of_256"] == pytest.approx(256 * figures["energy_pj_per_element"], rel=1e-9)
    assert 0 < figures["glitches_percent"] < 90
    without, with_all = (figures[f"energy_{which}_glitches_pj_per_element"] for which in ("without", "with_all"))
    assert 0.3 * with_all < without < figures["energy_pj_per_element"] < with_all
    assert (figures["memory_area_um2"], figures["memory_energy_pj_per_element"], figures["memories"]) == (0, 0, {})
    assert figures["longest_path"][-1]["time"] == pytest.approx(1e3 / figures["fmax_mhz"], abs=1e-3)


@verilator
def test_the_clock_is_met(whole: Synthesis) -> None:
    assert whole.met
    assert whole.timing.period <= whole.clock


@pytest.mark.slow
@verilator
def test_the_fastest_netlist_where_none_meets_the_clock(whole: Synthesis) -> None:
    late = softmaxkit.synthesize(WHOLE_UNIT, wires=False, clock=0.1)
    assert not late.met
    assert late.timing.fmax_mhz == late.fastest > whole.fastest
    assert sum(late.area.values()) == late.fastest_area >= sum(whole.area.values())
    assert (late.mismatches, late.faults) == (0, ())


@pytest.mark.slow
@verilator
def test_wires_cost_time_and_energy(whole: Synthesis) -> None:
    wired = softmaxkit.synthesize(WHOLE_UNIT)
    assert wired.fastest < whole.fastest
    assert wired.figures()["energy_pj_per_element"] > whole.figures()["energy_pj_per_element"]


@pytest.mark.slow
@verilator
def test_two_uncached_runs_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Synthesis) -> None:
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path))
    again = softmaxkit.synthesize(WHOLE_UNIT, wires=False)
    assert again.figures() == whole.figures()
    assert again.mapped.design == whole.mapped.design


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["flip-flops", "latches"])
def test_rows_and_tables_are_separate_parts(storage: str) -> None:
    spec = ConSmax(tables="shift")
    tables = softmaxkit.synthesize(spec.unit(lanes=1, max_row=16, storage=storage), constants=spec.constants())
    assert set(tables.area) == {"datapath", "tables"}
    rows = softmaxkit.synthesize(Softermax().unit(lanes=4, max_row=32, storage=storage))
    assert set(rows.area) == {"datapath", "row buffer"}
    sliced = softmaxkit.synthesize(Softermax(maximum="online").unit(lanes=1, max_row=32, storage="memory"))
    # Only pointers, not the scores that wait; the waiting slice belongs to the datapath.
    assert sliced.area["row buffer"] < 0.06 * sliced.area["datapath"]
    (memory,) = sliced.figures()["memories"].values()
    assert (memory["writes_per_element"], memory["reads_per_element"]) == pytest.approx((1, 1), rel=0.02)
    assert sliced.figures()["memory_energy_pj_per_element"] > sliced.memories["power_memory"].arrangement.macro.read
    assert min(*tables.area.values(), *rows.area.values()) > 100
    assert {part: energy.leakage > 0 for part, energy in rows.energy.items()} == {"datapath": True, "row buffer": True}
    assert (tables.mismatches, rows.mismatches, tables.faults, rows.faults) == (0, 0, (), ())


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("cells", ["sky130", "asap7"])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("spec", [Softermax(), Exaq(bits=2), ConSmax(bits=16)], ids=lambda spec: spec.method)
def test_netlists_of_units_equal_golden(spec: softmaxkit.Spec, lanes: int, cells: str) -> None:
    synthesis = softmaxkit.synthesize(spec.unit(lanes=lanes, max_row=64, storage="latches"), cells)
    assert synthesis.compared > CYCLES + 0.9 * CHECKED  # at least one result per cycle, and the stalled rows
    assert (synthesis.mismatches, synthesis.faults) == (0, ())


@verilator
def test_constant_scores_cost_less_energy(whole: Synthesis) -> None:
    codes = np.zeros((4, 256), np.int64)
    rows = Rows(codes, np.ones(codes.shape, np.bool_), np.full(4, 256))
    quiet = softmaxkit.synthesize(WHOLE_UNIT, wires=False, rows=rows)
    assert quiet.figures()["energy_pj_per_element"] < 0.7 * whole.figures()["energy_pj_per_element"]
    assert quiet.energy["datapath"].leakage == whole.energy["datapath"].leakage


def test_the_sample_is_of_real_scores() -> None:
    rows = sample()
    assert rows.shape[1] == KEYS
    # The spread of scores differs between real heads, unlike in a single normal distribution.
    spreads = rows.std(axis=1)
    assert spreads.max() > 3 * spreads.min()
    for spec in (ConSmax(), Softermax(), Exaq()):
        sampled = sampled_rows(spec, spec.examples()[0], 3, 300)
        assert sampled.codes.shape == (3, 300)
        assert (sampled.codes[:, :44] == sampled.codes[:, 256:]).all()
        assert len(np.unique(sampled.codes)) > 10


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("$flatten\\high_table.$abc$1$2", "tables"),
        ("$flatten\\front.gather.buffer.words.$abc$1", "row buffer"),
        ("$flatten\\buffer.words.latch_3", "row buffer"),
        ("$flatten\\front.gather.slices.words.latch_3", "datapath"),  # never in an external memory
        ("$abc$12$buffer", "datapath"),
        ("unbuffer.x", "datapath"),
    ],
)
def test_parts_by_names(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("clock", [0, -1.0, float("nan"), float("inf")])
def test_clocks_that_are_refused(clock: float) -> None:
    with pytest.raises(ValueError, match="clock must be a positive number of ns"):
        softmaxkit.synthesize(WHOLE_UNIT, clock=clock)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([], "one or more of the same length, got none"), ([3, 7], "lengths of 3 to 7"), ([257], "up to 256 scores, got")],
)
def test_rows_that_are_refused(lengths: list[int], message: str) -> None:
    """Energy per score is that of rows of one length, so others would be a wrong figure."""
    codes = np.zeros((len(lengths), max(lengths, default=1)), np.int64)
    rows = Rows(codes, codes == 0, np.asarray(lengths, np.int64))
    with pytest.raises(ValueError, match=message):
        softmaxkit.synthesize(WHOLE_UNIT, rows=rows)


def test_libraries_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells must be 'sky130' or 'asap7', got 'tsmc7'"):
        chosen_library("tsmc7")
    damaged = tmp_path / "damaged.lib"
    damaged.write_text("library (x) {\n  cell (a) {\n    area : 1;\n")
    with pytest.raises(LibertyError, match=r"damaged\.lib, line 2: cell a is not closed"):
        chosen_library("sky130", [damaged])
    with pytest.raises(FileNotFoundError):
        chosen_library("sky130", [tmp_path / "absent.lib"])
