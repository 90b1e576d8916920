"""Reads the characteristics of a cell from its groups: state, capacitance, leakage, delays, constraints, energy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import Group, LibertyError
from softmaxkit.flow.cells.library import Arc, Constraint, Sense, State
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.cells.units import LeftOut, Units

SENSES: dict[str, Sense] = {
    "positive_unate": "positive_unate",
    "negative_unate": "negative_unate",
    "non_unate": "non_unate",
}


def read_state(group: Group) -> State | None:
    """Read the state of a sequential cell; None if the cell is combinational.

    Raises:
        LeftOut: the description of the state is not supported.
    """
    if "clock_gating_integrated_cell" in group.values:
        marked = {
            mark: pin.name
            for pin in group.of("pin")
            for mark in pin.values
            if mark.startswith("clock_gate_") and pin.is_true(mark)
        }
        kind = group.values["clock_gating_integrated_cell"]
        if not kind.startswith("latch_posedge") or not {"clock_gate_clock_pin", "clock_gate_enable_pin"} <= set(marked):
            raise LeftOut("a clock gate that is not latch_posedge")
        enable = marked["clock_gate_enable_pin"]
        data = f"{enable} | {marked['clock_gate_test_pin']}" if "clock_gate_test_pin" in marked else enable
        return State("gate", ("enabled", "enabled_n"), marked["clock_gate_clock_pin"], data)
    states = [subgroup for subgroup in group.groups if subgroup.kind in ("ff", "latch")]
    if len(states) > 1:
        raise LeftOut("several registers")
    if not states:
        if group.first("statetable"):
            raise LeftOut("a statetable")
        return None
    state = states[0]
    clock, data = ("clocked_on", "next_state") if state.kind == "ff" else ("enable", "data_in")
    if len(state.names) != 2 or not {clock, data} <= set(state.values) or "clocked_on_also" in state.values:
        raise LeftOut(f"an {state.kind} group without just {clock} and {data}")
    return State(
        "flip-flop" if state.kind == "ff" else "latch",
        (state.names[0], state.names[1]),
        expression(state.values[clock]).plain,
        state.values[data],
        state.values.get("clear", ""),
        state.values.get("preset", ""),
    )


def read_capacitance(pin: Group, output: bool, units: Units) -> float:
    """Return the capacitance of a pin in pF: its own, the mean of rise and fall, or the library's default.

    Raises:
        LibertyError: an input has none of these.
    """
    edges = [pin.number(name) for name in ("rise_capacitance", "fall_capacitance") if name in pin.values]
    default = "default_output_pin_cap" if output else "default_input_pin_cap"
    if "capacitance" in pin.values:
        capacitance: float | None = pin.number("capacitance")
    else:
        capacitance = float(np.mean(edges)) if edges else units.default(default)
    if capacitance is None and not output:
        raise LibertyError(
            f"pin {pin.name} has no capacitance, rise_capacitance or fall_capacitance, and the library has no {default}"
        )
    return (capacitance or 0.0) * units.capacitance


def read_leakage(group: Group, units: Units) -> float | None:
    """Return the leakage of a cell in nW: its own, the mean over its states, or the default; None if there is none."""
    by_state: dict[str, float] = {}
    for leakage in group.of("leakage_power"):
        state = leakage.values.get("when", "")
        by_state[state] = by_state.get(state, 0.0) + leakage.number("value")
    if "cell_leakage_power" in group.values:
        return group.number("cell_leakage_power") * units.leakage
    if by_state:
        return float(np.mean(list(by_state.values()))) * units.leakage
    default, density = units.default("default_cell_leakage_power"), units.default("default_leakage_power_density")
    if default is None and density is not None:
        default = density * group.number("area")
    return None if default is None else default * units.leakage


def read_arcs(pin: Group, units: Units) -> Iterator[Arc]:
    """Yield the arcs to an output; of arcs that differ only in their condition, the slower values are used."""
    merged: dict[tuple[str, Sense, str], list[Table]] = {}
    for timing in pin.of("timing"):
        kind = timing.values.get("timing_type", "combinational")
        if kind not in ("combinational", "rising_edge", "falling_edge", "combinational_rise", "combinational_fall"):
            continue
        edge = {"rising_edge": "rise", "falling_edge": "fall"}.get(kind, "")
        unateness = "non_unate" if edge else timing.values.get("timing_sense", "non_unate")
        if unateness not in SENSES:
            raise LibertyError(f"timing_sense of pin {pin.name} must be {' or '.join(SENSES)}, got {unateness!r}")
        sense = SENSES[unateness]
        tables = [
            units.delay(timing.first(name)) for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
        ]
        usable = [table for table in tables if table is not None]
        if not usable:
            continue
        # If a group has only one edge, the other is in another group of the same arc, or is taken to be as slow.
        rise, fall, rise_slew, fall_slew = tables
        whole = [rise or fall, fall or rise, rise_slew or fall_slew, fall_slew or rise_slew]
        filled = [table or usable[0] for table in whole]
        for related in _related(timing, pin):
            key = (related, sense, edge)
            before = merged.get(key)
            merged[key] = [a.combined(b, np.maximum) for a, b in zip(before, filled, strict=True)] if before else filled
    for (related, sense, edge), (rise, fall, rise_slew, fall_slew) in merged.items():
        yield Arc(pin.name, related, sense, edge, rise, fall, rise_slew, fall_slew)


def read_constraints(pin: Group, units: Units, kind: Literal["setup", "hold"]) -> Iterator[Constraint]:
    """Yield the setup or hold times of an input; of those that differ only in their condition, the longer are used."""
    merged: dict[tuple[str, str], tuple[Table, Table]] = {}
    for timing in pin.of("timing"):
        edge = {f"{kind}_rising": "rise", f"{kind}_falling": "fall"}.get(timing.values.get("timing_type", ""))
        if edge is None:
            continue
        rise, fall = (units.constraint(timing.first(name)) for name in ("rise_constraint", "fall_constraint"))
        if rise is None and fall is None:
            continue
        pair = [table for table in (rise or fall, fall or rise) if table is not None]
        for related in _related(timing, pin):
            key = related, edge
            if key in merged:
                a, b = merged[key]
                merged[key] = a.combined(pair[0], np.maximum), b.combined(pair[1], np.maximum)
            else:
                merged[key] = pair[0], pair[1]
    for (related, edge), (slow, fast) in merged.items():
        yield Constraint(pin.name, related, edge, slow, fast)


def _related(timing: Group, pin: Group) -> list[str]:
    """Return the pins at which a timing group begins."""
    related = timing.words("related_pin")
    if not related:
        raise LibertyError(f"a timing group of pin {pin.name} has no related_pin")
    return related


def read_energy(pin: Group, units: Units) -> Iterator[tuple[str, Table]]:
    """Yield `(related pin, energy)` per edge of a pin: the mean over rise and fall and over all conditions.

    The energies of different supplies are summed.
    """
    by_condition: dict[tuple[str, str], list[Table]] = {}
    for power in pin.of("internal_power"):
        both = units.power(power.first("power"))
        rise, fall = (units.power(power.first(name)) or both for name in ("rise_power", "fall_power"))
        if rise is None and fall is None:
            continue
        sides = [table for table in (rise, fall) if table is not None]
        mean = sides[0] if len(sides) == 1 else sides[0].combined(sides[1], lambda a, b: (a + b) / 2)
        for related in power.words("related_pin") or [""]:
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
