"""Reads cell libraries from Liberty files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import Group, LibertyError, read_liberty
from softmaxkit.flow.cells.library import Arc, Cell, Library, Pin, Sense, Setup, State, Table
from softmaxkit.flow.cells.units import Units

SENSES: dict[str, Sense] = {
    "positive_unate": "positive_unate",
    "negative_unate": "negative_unate",
    "non_unate": "non_unate",
}


def library_from_liberty(paths: Sequence[Path], wire: float = 0.0) -> Library:
    """Read one library from one or more Liberty files, plain or gzip.

    Args:
        paths: the files.
        wire: estimated wire capacitance in pF per pin that a net drives.

    Raises:
        LibertyError: a file is damaged or does not give its voltage, or the voltages differ.
        OSError: a file cannot be read.
    """
    cells: dict[str, Cell] = {}
    voltages, names = [], []
    for path in paths:
        group = read_liberty(path)
        try:
            units = Units(group, str(path))
            read = [read_cell(cell, units) for cell in group.of("cell")]
        except ValueError as error:  # errors in numbers, tables and functions do not name the file yet
            raise LibertyError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        names.append(group.name)
        voltages.append(units.voltage)
        cells |= {cell.name: cell for cell in read if cell}
    if len(set(voltages)) > 1:
        listed = ", ".join(f"{voltage:g} V" for voltage in voltages)
        raise LibertyError(f"the files are of different voltages: {listed}")
    if not voltages or not voltages[0]:
        raise LibertyError(f"{paths[0] if paths else 'no file'} does not give the voltage (nom_voltage)")
    return Library(names[0], voltages[0], dict(sorted(cells.items())), wire)


def read_cell(group: Group, units: Units) -> Cell | None:
    """Read a cell; None if it has no function, or none that is supported here."""
    state = read_state(group)
    pins: dict[str, Pin] = {}
    arcs: list[Arc] = []
    setups: list[Setup] = []
    energy: dict[tuple[str, str], Table] = {}
    own: dict[str, Table] = {}
    for pin in group.of("pin"):
        direction = pin.values.get("direction")
        if direction not in ("input", "output") or "three_state" in pin.values:
            if direction == "internal":
                continue
            return None
        capacitance = pin.number("capacitance") * units.capacitance
        function = pin.values.get("function", "")
        if state is not None and state.kind == "gate" and direction == "output":
            function = f"{state.names[0]} & ({state.clock})"
        if direction == "output" and not function:
            return None
        limit = pin.number("max_capacitance") * units.capacitance
        pins[pin.name] = Pin(direction == "output", capacitance, function, limit if direction == "output" else 0.0)
        arcs += read_arcs(pin, units)
        setups += read_setups(pin, units)
        for related, table in read_energy(pin, units):
            if related:
                energy[pin.name, related] = table
            else:
                own[pin.name] = table
    if not any(pin.output for pin in pins.values()):
        return None
    if state is None and any(set(expression(pin.function).names) - set(pins) for pin in pins.values() if pin.output):
        return None  # its state is described in a way that is not supported
    area = group.number("area")
    return Cell(group.name, area, read_leakage(group, units), pins, tuple(arcs), tuple(setups), energy, own, state)


def read_state(group: Group) -> State | None:
    """Read the state of a sequential cell; None if it is combinational or not supported."""
    if "clock_gating_integrated_cell" in group.values:
        marked = {mark: pin.name for pin in group.of("pin") for mark in pin.values if mark.startswith("clock_gate_")}
        if not {"clock_gate_clock_pin", "clock_gate_enable_pin"} <= set(marked):
            return None
        if "posedge" not in group.values["clock_gating_integrated_cell"]:
            return None
        enable = marked["clock_gate_enable_pin"]
        data = f"{enable} | {marked['clock_gate_test_pin']}" if "clock_gate_test_pin" in marked else enable
        return State("gate", ("enabled", "enabled_n"), marked["clock_gate_clock_pin"], data)
    for kind, clock, data in (("ff", "clocked_on", "next_state"), ("latch", "enable", "data_in")):
        state = group.first(kind)
        if state is not None and len(state.names) == 2 and clock in state.values and data in state.values:
            return State(
                "flip-flop" if kind == "ff" else "latch",
                (state.names[0], state.names[1]),
                expression(state.values[clock]).plain,
                state.values[data],
                state.values.get("clear", ""),
                state.values.get("preset", ""),
            )
    return None


def read_leakage(group: Group, units: Units) -> float:
    """Return the mean leakage of a cell in nW."""
    by_state: dict[str, float] = {}
    for leakage in group.of("leakage_power"):
        state = leakage.values.get("when", "")
        by_state[state] = by_state.get(state, 0.0) + leakage.number("value")
    if "cell_leakage_power" in group.values:
        return group.number("cell_leakage_power") * units.leakage
    return float(np.mean(list(by_state.values()))) * units.leakage if by_state else 0.0


def read_arcs(pin: Group, units: Units) -> Iterator[Arc]:
    """Yield the arcs to an output; where arcs differ only in their condition, the slower values."""
    merged: dict[tuple[str, Sense, str], list[Table]] = {}
    for timing in pin.of("timing"):
        kind = timing.values.get("timing_type", "combinational")
        if kind not in ("combinational", "rising_edge", "falling_edge", "combinational_rise", "combinational_fall"):
            continue
        edge = {"rising_edge": "rise", "falling_edge": "fall"}.get(kind, "")
        unateness = "non_unate" if edge else timing.values.get("timing_sense", "non_unate")
        if unateness not in SENSES:
            raise LibertyError(f"timing_sense of pin {pin.name} is {' or '.join(SENSES)}, not {unateness!r}")
        sense = SENSES[unateness]
        tables = [
            units.table(timing.first(name), units.time, units.capacitance)
            for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
        ]
        usable = [table for table in tables if table is not None]
        if not usable:
            continue
        # If a group gives only one edge, the other one is in another group of the same arc, or is just as slow.
        rise, fall, rise_slew, fall_slew = tables
        whole = [rise or fall, fall or rise, rise_slew or fall_slew, fall_slew or rise_slew]
        filled = [table or usable[0] for table in whole]
        for related in timing.values.get("related_pin", "").split():
            key = (related, sense, edge)
            before = merged.get(key)
            merged[key] = [a.combined(b, np.maximum) for a, b in zip(before, filled, strict=True)] if before else filled
    for (related, sense, edge), (rise, fall, rise_slew, fall_slew) in merged.items():
        yield Arc(pin.name, related, sense, edge, rise, fall, rise_slew, fall_slew)


def read_setups(pin: Group, units: Units) -> Iterator[Setup]:
    """Yield the setup times of an input; where they differ only in their condition, the longer ones."""
    merged: dict[tuple[str, str], tuple[Table, Table]] = {}
    for timing in pin.of("timing"):
        kind = timing.values.get("timing_type", "")
        if kind not in ("setup_rising", "setup_falling"):
            continue
        rise, fall = (
            units.table(timing.first(name), units.time, units.time) for name in ("rise_constraint", "fall_constraint")
        )
        if rise is None and fall is None:
            continue
        pair = [table for table in (rise or fall, fall or rise) if table is not None]
        for related in timing.values.get("related_pin", "").split():
            key = related, "rise" if kind == "setup_rising" else "fall"
            if key in merged:
                a, b = merged[key]
                merged[key] = a.combined(pair[0], np.maximum), b.combined(pair[1], np.maximum)
            else:
                merged[key] = pair[0], pair[1]
    for (related, edge), (slow, fast) in merged.items():
        yield Setup(pin.name, related, edge, slow, fast)


def read_energy(pin: Group, units: Units) -> Iterator[tuple[str, Table]]:
    """Yield `(related pin, energy)` per edge of a pin: the mean of rise and fall and of all conditions.

    The energies of different supplies are added.
    """
    by_condition: dict[tuple[str, str], list[Table]] = {}
    for power in pin.of("internal_power"):
        both = units.table(power.first("power"), units.energy, units.capacitance)
        rise, fall = (
            units.table(power.first(name), units.energy, units.capacitance) or both
            for name in ("rise_power", "fall_power")
        )
        if rise is None and fall is None:
            continue
        sides = [table for table in (rise, fall) if table is not None]
        mean = sides[0] if len(sides) == 1 else sides[0].combined(sides[1], lambda a, b: (a + b) / 2)
        for related in power.values.get("related_pin", "").split() or [""]:
            by_condition.setdefault((related, power.values.get("when", "")), []).append(mean)
    by_pin: dict[str, list[Table]] = {}
    for (related, _), tables in by_condition.items():
        by_pin.setdefault(related, []).append(_folded(tables, np.add))
    for related, tables in by_pin.items():
        total = _folded(tables, np.add)
        yield related, total._replace(values=total.values / len(tables))


def _folded(tables: Iterable[Table], how: np.ufunc) -> Table:
    first, *others = tables
    for table in others:
        first = first.combined(table, how)
    return first
