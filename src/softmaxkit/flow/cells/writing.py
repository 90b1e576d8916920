"""Writes cell libraries as Liberty, for mapping by Yosys and ABC or for timing analysers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from softmaxkit.flow.cells.library import Arc, Cell, Constraint, Library
from softmaxkit.flow.cells.table import Table
from softmaxkit.formats import Array

HEADER = {
    "delay_model": "table_lookup",
    "time_unit": '"1ns"',
    "voltage_unit": '"1V"',
    "current_unit": '"1mA"',
    "leakage_power_unit": '"1nW"',
    "capacitive_load_unit": "(1, pf)",
}

TEMPLATES = {
    "delay": ("input_net_transition", "total_output_net_capacitance"),
    "constraint": ("constrained_pin_transition", "related_pin_transition"),
}

THRESHOLDS = {
    **{f"{side}_threshold_pct_{edge}": "50" for side in ("input", "output") for edge in ("rise", "fall")},
    **{f"slew_lower_threshold_pct_{edge}": "20" for edge in ("rise", "fall")},
    **{f"slew_upper_threshold_pct_{edge}": "80" for edge in ("rise", "fall")},
}
"""Thresholds for delays and slews. Analysers require them; with a single library, the values do not matter."""


def to_liberty(library: Library, analysis: bool = False) -> str:
    """Return a library as Liberty text.

    Args:
        library: the cells.
        analysis: write it for a timing analyser, with hold times and thresholds but without estimated wires. If False,
            it is for mapping: pin capacitances include the estimated wire, and gates with several outputs are left out.
    """
    values = {**HEADER, "nom_voltage": f"{library.voltage:g}", "default_max_transition": "1000"}
    if analysis:
        values |= THRESHOLDS
    # ABC reads the size of a table from its template, even if the table has axes of its own.
    shapes = sorted({shape for cell in library.cells.values() for shape in _shapes(cell, analysis)})
    templates = [_template(kind, rows, columns) for kind in TEMPLATES for rows, columns in shapes]
    wire = 0.0 if analysis else library.wire
    included = [cell for cell in library.cells.values() if analysis or cell.state or len(cell.outputs) == 1]
    cells = [_cell(cell, wire, analysis) for cell in included]
    return _group("library", library.name, values, templates + cells) + "\n"


def _shapes(cell: Cell, holds: bool) -> Iterator[tuple[int, ...]]:
    for arc in (*cell.arcs, *cell.setups, *(cell.holds if holds else ())):
        yield from (table.values.shape for table in arc if isinstance(table, Table))


def _template(kind: str, rows: int, columns: int) -> str:
    first, second = TEMPLATES[kind]
    axes = [f'index_{axis} ("{_numbers(np.arange(length))}");' for axis, length in ((1, rows), (2, columns))]
    name = f"{kind}_{rows}x{columns}"
    return _group("lu_table_template", name, {"variable_1": first, "variable_2": second}, axes)


def _group(kind: str, name: str, values: dict[str, str], groups: list[str]) -> str:
    lines = [f"{key} : {value};" if not value.startswith("(") else f"{key} {value};" for key, value in values.items()]
    return "\n".join([f"{kind} ({name}) {{", *lines, *groups, "}"])


def _cell(cell: Cell, wire: float, holds: bool) -> str:
    values, groups = {"area": f"{cell.area:g}"}, []
    state = cell.state
    if state is not None and state.kind == "gate":
        values["clock_gating_integrated_cell"] = '"latch_posedge"'
    elif state is not None:
        clock, data = ("clocked_on", "next_state") if state.kind == "flip-flop" else ("enable", "data_in")
        inside = {clock: f'"{state.clock}"', data: f'"{state.data}"'}
        inside |= {key: f'"{text}"' for key, text in (("clear", state.clear), ("preset", state.preset)) if text}
        groups.append(_group("ff" if state.kind == "flip-flop" else "latch", ", ".join(state.names), inside, []))
    for name, pin in cell.pins.items():
        if pin.output:
            about = (
                {"direction": "output", "max_capacitance": f"{pin.limit:g}"} if pin.limit else {"direction": "output"}
            )
            if state is None or state.kind != "gate":
                about["function"] = f'"{pin.function}"'
            else:
                about["clock_gate_out_pin"] = "true"
            inside_groups = [_arc(arc) for arc in cell.arcs if arc.output == name]
        else:
            about = {"direction": "input", "capacitance": f"{pin.capacitance + wire:g}"}
            if state is not None and name == cell.clock_pin:
                about["clock"] = "true"
                if state.kind == "gate":
                    about["clock_gate_clock_pin"] = "true"
            elif state is not None and state.kind == "gate":
                mark = "enable" if state.data.split(" ")[0] == name else "test"
                about[f"clock_gate_{mark}_pin"] = "true"
            inside_groups = [_constraint(setup, "setup") for setup in cell.setups if setup.pin == name]
            inside_groups += [_constraint(hold, "hold") for hold in cell.holds if holds and hold.pin == name]
        groups.append(_group("pin", name, about, inside_groups))
    return _group("cell", cell.name, values, groups)


def _arc(arc: Arc) -> str:
    kind = {"rise": "rising_edge", "fall": "falling_edge", "": "combinational"}[arc.edge]
    values = {"related_pin": f'"{arc.related}"', "timing_type": kind, "timing_sense": arc.sense}
    tables = {
        "cell_rise": arc.rise,
        "cell_fall": arc.fall,
        "rise_transition": arc.rise_slew,
        "fall_transition": arc.fall_slew,
    }
    return _group("timing", "", values, [_table(name, table, "delay") for name, table in tables.items()])


def _constraint(constraint: Constraint, of: str) -> str:
    kind = {"rise": f"{of}_rising", "fall": f"{of}_falling"}[constraint.edge]
    tables = {"rise_constraint": constraint.rise, "fall_constraint": constraint.fall}
    inside = [_table(name, table, "constraint") for name, table in tables.items()]
    return _group("timing", "", {"related_pin": f'"{constraint.clock}"', "timing_type": kind}, inside)


def _table(name: str, table: Table, kind: str) -> str:
    if table.values.size == 1:
        return f'{name} (scalar) {{ values ("{table.values[0, 0]:.6g}"); }}'
    rows, columns = table.values.shape
    axes = f'index_1 ("{_numbers(table.slews)}"); index_2 ("{_numbers(table.loads)}");'
    values = ", ".join(f'"{_numbers(row)}"' for row in table.values)
    return f"{name} ({kind}_{rows}x{columns}) {{ {axes} values ({values}); }}"


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.6g}" for value in np.asarray(values).tolist())
