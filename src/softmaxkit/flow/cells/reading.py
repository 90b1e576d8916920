"""Reads cell libraries from Liberty files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from softmaxkit.flow.cells.characteristics import (
    read_arcs,
    read_capacitance,
    read_constraints,
    read_energy,
    read_leakage,
    read_state,
)
from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import Group, LibertyError, located, read_liberty
from softmaxkit.flow.cells.library import Cell, Library, Pin, State
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.cells.units import LeftOut, Units

FORBIDDEN = ("dont_use", "dont_touch")
SPECIAL = (
    "is_level_shifter",
    "is_isolation_cell",
    "is_clock_isolation_cell",
    "is_macro_cell",
    "always_on",
    "pad_cell",
    "retention_cell",
    "power_gating_cell",
    "switch_cell_type",
)
"""Attributes of cells that must not be used as the gate that their function describes."""

NO_LEAKAGE = "no leakage, which counts as 0"
"""Remark on cells without leakage."""

NO_HOLD = "no hold time, which counts as 0"
"""Remark on registers and latches with an input that has a setup time but no hold time."""


def library_from_liberty(paths: Sequence[Path], wire: float = 0.0) -> Library:
    """Read one library from one or more Liberty files, plain or gzip.

    Cells that are not to be used, or whose description is not supported, are left out; the library's `remarks` list
    their names.

    Args:
        paths: the files.
        wire: estimated wire capacitance in pF per pin that a net drives.

    Raises:
        LibertyError: a file is damaged or incomplete, a cell occurs twice, or the voltages differ.
        OSError: a file cannot be read.
    """
    cells: dict[str, Cell] = {}
    remarks: dict[str, list[str]] = {}
    voltages, names = [], []
    for path in paths:
        group = read_liberty(path)
        with located(path, group):
            units = Units(group)
            voltages.append(units.voltage)
            if len(set(voltages)) > 1:
                listed = ", ".join(f"{voltage:g} V" for voltage in voltages)
                raise LibertyError(f"the files have different voltages: {listed}")
        for entry in group.of("cell"):
            with located(path, entry):
                if entry.name in cells:
                    raise LibertyError(f"cell {entry.name} occurs twice; give other corners of a library with --corner")
                cell = _read_or_remark(entry, units, remarks)
            if cell is not None:
                cells[cell.name] = cell
        names.append(group.name)
    if not voltages or not voltages[0]:
        raise LibertyError(f"{paths[0] if paths else 'no file'} does not give the voltage (nom_voltage)")
    ordered = {remark: tuple(sorted(named)) for remark, named in sorted(remarks.items())}
    return Library(names[0], voltages[0], dict(sorted(cells.items())), wire, ordered)


def _read_or_remark(group: Group, units: Units, remarks: dict[str, list[str]]) -> Cell | None:
    """Return a cell; or add the reason to the remarks and return None if the cell is left out.

    Raises:
        LibertyError: the cell is incomplete; the message names what is missing.
    """
    try:
        cell = read_cell(group, units)
    except LeftOut as reason:
        remarks.setdefault(f"left out for {reason}", []).append(group.name)
        return None
    except ValueError as error:
        raise LibertyError(f"cell {group.name}: {error}") from None
    if read_leakage(group, units) is None:
        remarks.setdefault(NO_LEAKAGE, []).append(group.name)
    if cell.state is not None and {setup.pin for setup in cell.setups} - {hold.pin for hold in cell.holds}:
        remarks.setdefault(NO_HOLD, []).append(group.name)
    return cell


def read_cell(group: Group, units: Units) -> Cell:
    """Read a cell.

    Raises:
        LeftOut: it is not to be used, or its description is not supported.
        LibertyError: it is incomplete, for example without an area.
    """
    _check_attributes(group)
    state = read_state(group)
    groups = list(_pins(group))
    outputs = [pin for pin in groups if pin.values.get("direction") == "output"]
    if not outputs:
        raise LeftOut("no output")
    for pin in groups:
        _check_pin(pin)
    if any("function" not in pin.values for pin in outputs) and (state is None or state.kind != "gate"):
        raise LeftOut("an output without a function")
    if "area" not in group.values:
        raise LibertyError("the cell has no area")
    pins = {pin.name: _read_pin(pin, state, units) for pin in groups}
    arcs = tuple(arc for pin in groups for arc in read_arcs(pin, units))
    setups = tuple(setup for pin in groups for setup in read_constraints(pin, units, "setup"))
    holds = tuple(hold for pin in groups for hold in read_constraints(pin, units, "hold"))
    energy: dict[tuple[str, str], Table] = {}
    input_energy: dict[str, Table] = {}
    for pin in groups:
        for related, table in read_energy(pin, units):
            if related:
                energy[pin.name, related] = table
            elif not pins[pin.name].output:
                input_energy[pin.name] = table
            else:  # the same energy whichever input caused the change
                energy |= {
                    (pin.name, name): table
                    for name, other in pins.items()
                    if not other.output and (pin.name, name) not in energy
                }
    leakage = read_leakage(group, units) or 0.0
    cell = Cell(group.name, group.number("area"), leakage, pins, arcs, setups, energy, input_energy, state, holds)
    _check_functions(cell)
    _check_timing(cell)
    return cell


def _pins(group: Group) -> Iterator[Group]:
    """Yield the pins of a cell except internal ones, each in a group of its own: `pin (A, B)` is two pins."""
    for pin in group.of("pin"):
        if pin.values.get("direction") != "internal":
            yield from (replace(pin, names=(name,)) for name in pin.names)


def _read_pin(pin: Group, state: State | None, units: Units) -> Pin:
    if pin.values["direction"] == "input":
        return Pin(False, read_capacitance(pin, False, units), "")
    gated = state is not None and state.kind == "gate"
    function = f"{state.names[0]} & ({state.clock})" if state is not None and gated else pin.values["function"]
    limit = pin.number("max_capacitance", units.default("default_max_capacitance") or 0.0) * units.capacitance
    return Pin(True, read_capacitance(pin, True, units), function, limit)


def _check_attributes(group: Group) -> None:
    """Leave out a cell that is not to be used, or that is not a gate or register with plain pins."""
    for name in FORBIDDEN:
        if group.is_true(name):
            raise LeftOut(name)
    for name in SPECIAL:
        if group.values.get(name, "false").lower() != "false":
            raise LeftOut(name)
    if any(True for kind in ("bus", "bundle") for _ in group.of(kind)):
        raise LeftOut("bus or bundle pins")
    if any(True for kind in ("ff_bank", "latch_bank") for _ in group.of(kind)):
        raise LeftOut("several registers")


def _check_pin(pin: Group) -> None:
    """Leave out a cell for a pin that is neither a plain input nor a plain output with a function."""
    if pin.values.get("direction") not in ("input", "output"):
        raise LeftOut("pins that are neither input nor output")
    if "three_state" in pin.values:
        raise LeftOut("three_state outputs")
    if not re.fullmatch(r"[A-Za-z_]\w*", pin.name):
        raise LeftOut("pins whose names are not identifiers")


def _check_functions(cell: Cell) -> None:
    """Leave out a cell whose functions refer to anything but its inputs and its state."""
    functions = [cell.pins[name].function for name in cell.outputs]
    known = set(cell.inputs)
    if cell.state is not None:
        known |= set(cell.state.names)
        state_functions = (cell.state.clock, cell.state.data, cell.state.clear, cell.state.preset)
        if {name for text in state_functions if text for name in expression(text).names} - set(cell.inputs):
            raise LeftOut("a state that depends on signals other than its inputs")
    if {name for text in functions for name in expression(text).names} - known:
        raise LeftOut("a function of signals other than its inputs")


def _check_timing(cell: Cell) -> None:
    """Leave out a cell that lacks a delay or a setup time, which would otherwise count as 0."""
    state = cell.state
    if any(arc.related not in cell.pins for arc in cell.arcs) or any(
        constraint.clock not in cell.pins for constraint in (*cell.setups, *cell.holds)
    ):
        raise LeftOut("timing from a pin that does not exist")
    if state is None:
        needed = {(name, pin) for name in cell.outputs for pin in expression(cell.pins[name].function).names}
    elif state.kind == "gate":
        needed = set()  # its clock is ideal
    else:
        needed = {(name, cell.clock_pin) for name in cell.outputs}
    if needed - {(arc.output, arc.related) for arc in cell.arcs if state is None or arc.edge}:
        raise LeftOut("a missing delay")
    if state is not None and set(expression(state.data).names) - {setup.pin for setup in cell.setups}:
        raise LeftOut("a missing setup time")
