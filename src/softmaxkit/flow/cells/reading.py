"""Cell libraries out of Liberty files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import Group, LibertyError, numbers, read_liberty
from softmaxkit.flow.cells.library import Arc, Cell, Library, Pin, Sense, Setup, State, Table

PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}


class Units:
    """What the figures of a library are to be multiplied by, to be in ns, pF, pJ and nW."""

    def __init__(self, library: Group, source: str) -> None:
        self.source = source
        self.time = self._scale(library.values.get("time_unit", "1ns"), "s") / 1e-9
        load = library.values.get("capacitive_load_unit", "1 pf").replace(",", "")
        self.capacitance = self._scale(load, "f") / 1e-12
        voltage = self._scale(library.values.get("voltage_unit", "1V"), "v")
        self.energy = self.capacitance * voltage**2
        self.leakage = self._scale(library.values.get("leakage_power_unit", "1nW"), "w") / 1e-9
        self.voltage = library.number("nom_voltage") * voltage
        self.templates = {group.name: group for kind in TEMPLATES for group in library.of(kind)}

    def _scale(self, text: str, letter: str) -> float:
        found = re.fullmatch(rf"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]?){letter}\s*", text.lower())
        if found is None or found[2] not in PREFIXES:
            raise LibertyError(f"{self.source}: {text!r} is no unit, as 1n{letter} is")
        return float(found[1]) * PREFIXES[found[2]]

    def table(self, group: Group | None, scale: float, loads: float) -> Table | None:
        """Return a table; its values times `scale`, its second axis times `loads`."""
        if group is None or "values" not in group.values:
            return None
        template = self.templates.get(group.name, group)
        values = numbers(group.values["values"]) * scale
        axes = [
            numbers(source.values[key])
            for key in ("index_1", "index_2", "index_3")
            for source in (group, template)
            if key in source.values and not (source is template and key in group.values)
        ]
        if values.size == 1 or group.name == "scalar":
            return Table(np.zeros(1), np.zeros(1), values[:1].reshape(1, 1))
        if len(axes) > 2 or int(np.prod([len(each) for each in axes])) != values.size:
            raise LibertyError(f"{self.source}: a table {group.name} has {values.size} values, not as its axes say")
        first = template.values.get("variable_1", "")
        if len(axes) == 1:
            axes, first = [axes[0], np.zeros(1)], first
            if first == LOAD:
                return Table(np.zeros(1), axes[0] * loads, values.reshape(1, -1))
            return Table(axes[0] * self.time, np.zeros(1), values.reshape(-1, 1))
        if first in (LOAD, "related_pin_transition"):
            axes, values = axes[::-1], values.reshape(len(axes[0]), -1).T
        return Table(axes[0] * self.time, axes[1] * loads, values.reshape(len(axes[0]), -1))


SENSES: dict[str, Sense] = {
    "positive_unate": "positive_unate",
    "negative_unate": "negative_unate",
    "non_unate": "non_unate",
}
LOAD = "total_output_net_capacitance"
TEMPLATES = ("lu_table_template", "power_lut_template")


def library_from_liberty(paths: Sequence[Path], wire: float = 0.0) -> Library:
    """Read Liberty files that make one library, plain or gzip.

    Args:
        paths: the files.
        wire: in pF, the estimate of a net's wire for each pin that it drives.

    Raises:
        LibertyError: one is damaged, or they lack cells that a netlist needs.
        OSError: one cannot be read.
    """
    cells: dict[str, Cell] = {}
    voltages, names = [], []
    for path in paths:
        group = read_liberty(path)
        try:
            units = Units(group, str(path))
            found = [read_cell(each, units) for each in group.of("cell")]
        except ValueError as error:  # of a number, a table or a function, which do not know their file
            raise LibertyError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        names.append(group.name)
        voltages.append(units.voltage)
        cells |= {each.name: each for each in found if each}
    if len(set(voltages)) > 1:
        raise LibertyError(f"the files are of different voltages: {', '.join(f'{each:g} V' for each in voltages)}")
    if not voltages or not voltages[0]:
        raise LibertyError(f"{paths[0] if paths else 'no file'} does not tell the voltage (nom_voltage)")
    return Library(names[0], voltages[0], dict(sorted(cells.items())), wire)


def read_cell(group: Group, units: Units) -> Cell | None:
    """Read a cell; None where it computes nothing, or nothing that is known here."""
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
        return None  # a state that is told in a way that is not known here
    area = group.number("area")
    return Cell(group.name, area, read_leakage(group, units), pins, tuple(arcs), tuple(setups), energy, own, state)


def read_state(group: Group) -> State | None:
    """Read what a cell holds."""
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
        found = group.first(kind)
        if found is not None and len(found.names) == 2 and clock in found.values and data in found.values:
            return State(
                "flip-flop" if kind == "ff" else "latch",
                (found.names[0], found.names[1]),
                expression(found.values[clock]).plain,
                found.values[data],
                found.values.get("clear", ""),
                found.values.get("preset", ""),
            )
    return None


def read_leakage(group: Group, units: Units) -> float:
    """Return the mean leakage of a cell in nW."""
    by_state: dict[str, float] = {}
    for each in group.of("leakage_power"):
        state = each.values.get("when", "")
        by_state[state] = by_state.get(state, 0.0) + each.number("value")
    if "cell_leakage_power" in group.values:
        return group.number("cell_leakage_power") * units.leakage
    return float(np.mean(list(by_state.values()))) * units.leakage if by_state else 0.0


def read_arcs(pin: Group, units: Units) -> Iterator[Arc]:
    """Yield the arcs to an output; of those that differ by a condition alone, the slower figures."""
    merged: dict[tuple[str, Sense, str], list[Table]] = {}
    for timing in pin.of("timing"):
        kind = timing.values.get("timing_type", "combinational")
        if kind not in ("combinational", "rising_edge", "falling_edge", "combinational_rise", "combinational_fall"):
            continue
        edge = {"rising_edge": "rise", "falling_edge": "fall"}.get(kind, "")
        given = "non_unate" if edge else timing.values.get("timing_sense", "non_unate")
        if given not in SENSES:
            raise LibertyError(f"timing_sense of pin {pin.name} is {' or '.join(SENSES)}, not {given!r}")
        sense = SENSES[given]
        tables = [
            units.table(timing.first(name), units.time, units.capacitance)
            for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
        ]
        usable = [each for each in tables if each is not None]
        if not usable:
            continue
        # Where one edge alone is told, the other comes from another group of the same arc, or is as slow.
        rise, fall, rise_slew, fall_slew = tables
        whole = [rise or fall, fall or rise, rise_slew or fall_slew, fall_slew or rise_slew]
        filled = [each or usable[0] for each in whole]
        for related in timing.values.get("related_pin", "").split():
            key = (related, sense, edge)
            before = merged.get(key)
            merged[key] = [a.combined(b, np.maximum) for a, b in zip(before, filled, strict=True)] if before else filled
    for (related, sense, edge), (rise, fall, rise_slew, fall_slew) in merged.items():
        yield Arc(pin.name, related, sense, edge, rise, fall, rise_slew, fall_slew)


def read_setups(pin: Group, units: Units) -> Iterator[Setup]:
    """Yield the setup times of an input; of those that differ by a condition alone, the longer."""
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
        pair = [each for each in (rise or fall, fall or rise) if each is not None]
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
    """Yield `(related pin, energy)` of each edge of a pin: rise and fall, and all conditions, at equal parts.

    What different supplies give is summed.
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
        sides = [each for each in (rise, fall) if each is not None]
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
    for each in others:
        first = first.combined(each, how)
    return first
