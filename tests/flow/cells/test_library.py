"""The bundled tables, compared with the Liberty files that they derive from, and libraries written as Liberty."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from softmaxkit.flow.cells import processes as processes_module
from softmaxkit.flow.cells.liberty import parse
from softmaxkit.flow.cells.library import Arc, Cell, Library, Pin, State
from softmaxkit.flow.cells.processes import LIMIT, PROCESSES, derive, from_json, library_of, thinned, to_json
from softmaxkit.flow.cells.reading import Units, library_from_liberty, read_cell
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.cells.writing import to_liberty

PDK = Path(__file__).parents[4] / "shared" / "pdk"
HALF_DIGIT = 0.5 * 10.0 ** (1 - LIMIT)
"""Largest relative error of a value rounded to `LIMIT` significant digits."""

PLACES = 40
"""Number of points at which each table is compared."""

FLOOR = {"sky130": 0.010, "asap7": 0.002}
"""Times in ns; errors of shorter times are relative to these."""

SLEWS = {"sky130": 0.5, "asap7": 0.05}
"""Slews in ns; more than 95% of the nets of mapped units have shorter ones."""


def sources(process: str) -> list[Path]:
    paths = sorted(PDK.glob(f"{process}*.lib.gz"))
    if not paths:
        pytest.skip(f"no shared cell libraries beside the project: {process} is missing")
    return paths


@cache
def read(process: str) -> Library:
    return library_from_liberty(sources(process))


def full(process: str) -> Library:
    return read(process).without(PROCESSES[process].left_out)


def timing_tables(cell: Cell) -> dict[tuple[str, ...], Table]:
    return {
        (*arc[:4], kind): table
        for arc in cell.arcs
        for kind, table in zip(("rise", "fall", "rise_slew", "fall_slew"), arc[4:], strict=True)
    }


def errors(process: str, every: int, points: int | None = None) -> np.ndarray:
    """Return relative errors of the bundled tables at random points, or of tables thinned to `points` points.

    Only every n-th cell is compared, with n = `every`.

    Like those of the tables, these points are dense where slews and loads are small. They cover all loads of a cell,
    and slews up to those of nets in mapped units.
    """
    random, relative = np.random.default_rng(0), []
    for name, cell in list(full(process).cells.items())[::every]:
        packaged = timing_tables(library_of(process).cells[name])
        for key, whole in timing_tables(cell).items():
            if whole.values.size > 1:  # tie cells have a single value
                thin = packaged[key] if points is None else thinned(whole, points)
                slews = np.geomspace(whole.slews[0], SLEWS[process], PLACES)
                loads = np.geomspace(whole.loads[0], whole.loads[-1], PLACES)
                random.shuffle(loads)
                real = whole.at(slews, loads)
                relative.append(np.abs(thin.at(slews, loads) - real) / np.maximum(np.abs(real), FLOOR[process]))
    return np.concatenate(relative)


processes = pytest.mark.parametrize("process", PROCESSES)
processes_with_files = pytest.mark.parametrize(
    "process",
    ["sky130", pytest.param("asap7", marks=pytest.mark.slow)],  # its files take seconds to read
)


@processes_with_files
def test_cells_areas_and_pins_equal_those_of_the_files(process: str) -> None:
    whole, packaged = full(process), library_of(process)
    assert list(packaged.cells) == list(whole.cells)
    assert (packaged.name, packaged.voltage, packaged.wire) == (whole.name, whole.voltage, PROCESSES[process].wire)
    for name, cell in packaged.cells.items():
        real = whole.cells[name]
        assert (cell.area, cell.leakage, cell.state) == (real.area, real.leakage, real.state)
        assert list(cell.pins) == list(real.pins)
        for pin, given in cell.pins.items():
            assert given._replace(capacitance=0) == real.pins[pin]._replace(capacitance=0)
            assert given.capacitance == pytest.approx(real.pins[pin].capacitance, rel=HALF_DIGIT, abs=1e-9)
        assert list(timing_tables(cell)) == list(timing_tables(real))
        assert [setup[:3] for setup in cell.setups] == [setup[:3] for setup in real.setups]
        assert [hold[:3] for hold in cell.holds] == [hold[:3] for hold in real.holds]
        assert cell.energy.keys() == real.energy.keys()
        assert cell.input_energy.keys() == real.input_energy.keys()


@pytest.mark.parametrize(
    ("process", "every"), [("sky130", 5), *(pytest.param(process, 1, marks=pytest.mark.slow) for process in PROCESSES)]
)
def test_thinned_tables_are_close(process: str, every: int) -> None:
    # The most curved corners are further off, up to a third of 10 ps; other tests bound paths and power of netlists.
    error = errors(process, every)
    assert error.mean() < 0.015
    assert np.quantile(error, 0.95) < 0.05
    assert np.quantile(errors(process, every, 3), 0.95) > 0.05


@processes_with_files
def test_deriving_again_gives_the_same(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files are read once for all tests here.
    monkeypatch.setattr(processes_module, "library_from_liberty", lambda paths: read(process))
    packed = (files("softmaxkit.flow.cells") / f"{process}.json.gz").read_bytes()
    derived = json.dumps(to_json(derive(process, sources(process))), separators=(",", ":"))
    assert derived == gzip.decompress(packed).decode()


def test_thinning_keeps_the_ends_and_the_curved_parts() -> None:
    slews, loads = np.arange(7.0), np.asarray([0.0, 1.0])
    bent = np.maximum(slews, 3)[:, None] + loads[None, :] + 1
    thin = thinned(Table(slews, loads, bent), 3)
    assert thin.slews.tolist() == [0, 3, 6]
    assert thin.loads.tolist() == [0, 1]
    for slew in slews:
        assert thin.at(np.asarray(slew), np.asarray(0.5)) == pytest.approx(max(slew, 3) + 1.5, rel=1e-12)


def written(library: Library, analysis: bool = False) -> Library:
    """Return a library written as Liberty and read back."""
    group = parse(to_liberty(library, analysis))
    units = Units(group)
    cells = {entry.name: read_cell(entry, units) for entry in group.of("cell")}
    return Library(group.name, units.voltage, cells, library.wire)


def few_of(process: str) -> Library:
    """Return every third cell of a process, and all that have a state."""
    library = library_of(process)
    named = list(library.cells.items())
    return replace(library, cells={name: cell for at, (name, cell) in enumerate(named) if cell.state or at % 3 == 0})


def both(process: str) -> Iterator[tuple[Cell, Cell]]:
    library = few_of(process)
    again = written(library)
    assert (again.name, again.voltage) == (library.name, library.voltage)
    assert set(again.cells) == {name for name, cell in library.cells.items() if len(cell.outputs) == 1}
    yield from ((library.cells[name], cell) for name, cell in again.cells.items())


@processes
def test_written_libraries_are_read_back(process: str) -> None:
    # Values of four digits are written with six, so tables are read back unchanged.
    wire = PROCESSES[process].wire
    for cell, again in both(process):
        assert again.area == cell.area
        assert list(again.pins) == list(cell.pins)
        for name, pin in cell.pins.items():
            expected = 0.0 if pin.output else pin.capacitance + wire
            assert again.pins[name].capacitance == pytest.approx(expected, rel=1e-5)
            assert again.pins[name].limit == pytest.approx(pin.limit, rel=1e-5)
            assert (again.pins[name].output, again.pins[name].function) == (pin.output, pin.function)
        assert again.state == cell.state
        ours, theirs = timing_tables(cell), timing_tables(again)
        assert list(ours) == list(theirs)
        for key, table in ours.items():
            assert all(np.allclose(a, b, rtol=1e-5, atol=1e-12) for a, b in zip(table, theirs[key], strict=True))
        assert [setup[:3] for setup in again.setups] == [setup[:3] for setup in cell.setups]
        for setup, read in zip(cell.setups, again.setups, strict=True):
            pairs = zip((*setup.rise, *setup.fall), (*read.rise, *read.fall), strict=True)
            assert all(np.allclose(a, b, rtol=1e-5, atol=1e-12) for a, b in pairs)


@processes
def test_libraries_for_analysers_have_hold_times_and_no_wires(process: str) -> None:
    library = few_of(process)
    again = written(library, analysis=True)
    assert set(again.cells) == set(library.cells)
    held = [cell for cell in library.cells.values() if cell.holds]
    assert held
    for cell in held:
        read = again.cells[cell.name]
        assert [hold[:3] for hold in read.holds] == [hold[:3] for hold in cell.holds]
        for hold, back in zip(cell.holds, read.holds, strict=True):
            assert all(np.allclose(a, b, rtol=1e-5, atol=1e-12) for a, b in zip(hold.rise, back.rise, strict=True))
        for name in cell.inputs:
            assert read.pins[name].capacitance == pytest.approx(cell.pins[name].capacitance, rel=1e-5)
    assert not any(cell.holds for cell in written(library).cells.values())  # mapping does not use hold times


def test_json_and_back() -> None:
    library = few_of("sky130")
    again = from_json(json.loads(json.dumps(to_json(library))), library.wire)
    assert to_json(again) == to_json(library)
    assert list(again.cells) == list(library.cells)


def cell_of(name: str, area: float, state: State | None = None, **functions: str) -> Cell:
    pins = {pin: Pin(False, 0.001, "") for pin in "ABC"}
    return Cell(name, area, 0.0, pins | {pin: Pin(True, 0.0, text) for pin, text in functions.items()}, state=state)


def test_smallest() -> None:
    cells = [
        cell_of("or3", 4.0, Y="A + B + C"),
        cell_of("mux_big", 9.0, Y="(A C) + (B !C)"),
        cell_of("mux", 5.0, Y="(C A) + (!C B)"),
        cell_of("two", 1.0, Y="(C A) + (!C B)", Z="A"),
        cell_of("held", 1.0, State("latch", ("Q", "QN"), "C", "A"), Y="(C A) + (!C B)"),
    ]
    library = Library("hand-made", 1.0, {cell.name: cell for cell in cells})
    assert library.smallest(lambda a, b, c: a if c else b, 3).name == "mux"
    assert library.smallest(lambda a, b, c: a | b | c, 3).name == "or3"
    with pytest.raises(LookupError, match="hand-made has no such cell with 3 inputs"):
        library.smallest(lambda a, b, c: a & b & c, 3)
    assert library_of("sky130").smallest(lambda a, b: 1 - (a & b), 2).name == "sky130_fd_sc_hd__nand2_1"
    assert library_of("asap7").smallest(lambda a: 1 - a, 1).name.startswith("INVx")


def test_latches_and_clock_gates() -> None:
    sky, asap = library_of("sky130"), library_of("asap7")
    assert {high: cell.name for high, cell in sky.latches.items()} == {
        True: "sky130_fd_sc_hd__dlxtp_1",
        False: "sky130_fd_sc_hd__dlxtn_1",
    }
    assert {high: cell.name for high, cell in sky.clock_gates.items()} == {True: "sky130_fd_sc_hd__dlclkp_1"}
    assert {high: cell.name for high, cell in asap.latches.items()} == {
        True: "DHLx1_ASAP7_75t_R",
        False: "DLLx1_ASAP7_75t_R",
    }
    assert {high: cell.name for high, cell in asap.clock_gates.items()} == {True: "ICGx1_ASAP7_75t_R"}


@pytest.mark.parametrize(
    ("enable", "high"), [("G", True), ("(G)", True), ("!G", False), ("G'", False), ("(!G)", False)]
)
def test_polarity_of_a_latch(enable: str, high: bool) -> None:
    setup = 'timing () { related_pin : "G"; timing_type : setup_falling; rise_constraint (scalar) { values ("1"); } }'
    delay = 'timing () { related_pin : "G"; timing_type : rising_edge; cell_rise (scalar) { values ("1"); } }'
    pins = "pin (G) { direction : input; } pin (D) { direction : input; " + setup + "}"
    pins += 'pin (Q) { direction : output; function : "IQ"; ' + delay + "}"
    latch = f'latch (IQ, IQN) {{ enable : "{enable}"; data_in : "D"; }}'
    units = "capacitive_load_unit (1, pf); default_input_pin_cap : 0.001; nom_voltage : 1;"
    group = parse(f"library (l) {{ {units} cell (held) {{ area : 1; {latch} {pins} }} }}")
    cell = read_cell(group.groups[0], Units(group))
    assert list(Library("l", 1.0, {cell.name: cell}).latches) == [high]


def test_left_out_and_unknown() -> None:
    library = library_of("sky130").without(["*inv*", "*nand2_1"])
    assert not {name for name in library.cells if "inv" in name or name.endswith("nand2_1")}
    assert "sky130_fd_sc_hd__nand2_2" in library.cells
    with pytest.raises(ValueError, match="cells must be 'sky130' or 'asap7', got 'gf180'"):
        library_of("gf180")


def test_tables_with_different_axes_are_combined() -> None:
    # The other table is evaluated on the grid of the first, extrapolated beyond its ends.
    table = Table(np.asarray([0.0, 1.0]), np.asarray([0.0, 2.0]), np.asarray([[1.0, 1.0], [2.0, 2.0]]))
    other = Table(np.asarray([0.5, 1.5]), np.asarray([1.0]), np.asarray([[3.0], [1.0]]))
    assert table.combined(other, np.maximum).values.tolist() == [[4.0, 4.0], [2.0, 2.0]]
    assert table.combined(table, np.add).values.tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert Arc._fields[4:] == ("rise", "fall", "rise_slew", "fall_slew")
