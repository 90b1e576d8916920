"""Netlists for tests, written by hand in sky130 cells or mapped from small units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from softmaxkit import ConSmax, Q, Softermax
from softmaxkit.flow.activity import state_nets
from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.library import Cell, Library
from softmaxkit.flow.cells.processes import PROCESSES, library_of
from softmaxkit.flow.cells.reading import library_from_liberty
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.mapping import Mapped, map_design
from softmaxkit.flow.netlist import Netlist, read_netlist
from softmaxkit.flow.sources import Source
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.methods.base.unit import SoftmaxUnit

PDK = Path(__file__).parents[3] / "shared" / "pdk"
PREFIX = "sky130_fd_sc_hd__"


class HandNetlist(NamedTuple):
    """A netlist written by hand.

    Attributes:
        netlist: the netlist.
        net: index of each net, by its name.
    """

    netlist: Netlist
    net: dict[str, int]


def hand_netlist(inputs: str, outputs: str, cells: Sequence[str], library: Library | None = None) -> HandNetlist:
    """Return a netlist of sky130 cells.

    Args:
        inputs: names of one-bit ports; the clock is named "clk".
        outputs: names of the nets that are outputs.
        cells: each as "name kind A=net Y=net", the kind without the library's prefix; nets 0 and 1 are constants.
        library: another library with the same cell names.
    """
    bits: dict[str, Any] = {"0": "0", "1": "1"}

    def bit(net: str) -> Any:
        return bits.setdefault(net, len(bits))

    ports = {name: {"direction": "input", "bits": [bit(name)]} for name in inputs.split()}
    ports |= {f"out_{name}": {"direction": "output", "bits": [bit(name)]} for name in outputs.split()}
    split = [text.split() for text in cells]
    pins = {name: dict(pair.split("=") for pair in pairs) for name, _, *pairs in split}
    instances = {
        name: {"type": PREFIX + kind, "connections": {pin: [bit(net)] for pin, net in pins[name].items()}}
        for name, kind, *_ in split
    }
    design = {"modules": {"top": {"ports": ports, "cells": instances}}}
    netlist = read_netlist(design, "top", library or library_of("sky130"))
    net = {name: nets[0] for name, nets in netlist.inputs.items()}
    for group in netlist.groups:
        for place, instance in enumerate(group.instances):
            names_by_pin = pins[netlist.names[instance]]
            net |= {names_by_pin[pin]: int(nets[place]) for pin, nets in group.nets.items() if pin in names_by_pin}
    return HandNetlist(netlist, net)


def cell_of(kind: str, library: Library | None = None) -> Cell:
    """Return a sky130 cell by its name without the prefix."""
    return (library or library_of("sky130")).cells[PREFIX + kind]


def looked_up(table: Table, slew: float, load: float) -> float:
    """Return the value of a table, linear between the points and beyond them, in scalar arithmetic."""

    def along(axis: list[float], at: float, values: list[float]) -> float:
        if len(axis) == 1:
            return values[0]
        left = min(max(bisect_right(axis, at) - 1, 0), len(axis) - 2)
        slope = (values[left + 1] - values[left]) / (axis[left + 1] - axis[left])
        return values[left] + slope * (at - axis[left])

    rows = [along(table.loads.tolist(), load, row) for row in table.values.tolist()]
    return along(table.slews.tolist(), slew, rows)


def settled(netlist: Netlist, states: Any) -> Any:
    """Return the value of every net at the end of each cycle, with the clocks low; boolean, (nets, cycles)."""
    values = np.zeros((netlist.nets, len(states)), np.bool_)
    values[1] = True
    values[state_nets(netlist)] = states.T
    for _ in range(int(netlist.levels.max())):
        for group in netlist.groups:
            if group.cell.state is None:
                pins = {pin: values[np.maximum(group.nets[pin], 0)] for pin in group.cell.inputs}
                for pin in group.cell.outputs:
                    value = expression(group.cell.pins[pin].function)(np.True_, pins)
                    used = group.nets[pin] >= 0
                    values[group.nets[pin][used]] = np.broadcast_to(value, (len(used), len(states)))[used]
    return values


@cache
def full_library(process: str) -> Library:
    """Return the cells of a process with full tables, from the shared Liberty files."""
    paths = sorted(PDK.glob(f"{process}*.lib.gz"))
    if not paths:
        pytest.skip(f"no shared cell libraries beside the project: {process} is missing")
    return library_from_liberty(paths, PROCESSES[process].wire).without(PROCESSES[process].left_out)


def consmax() -> SoftmaxUnit:
    return ConSmax().unit(lanes=1, constants=ConSmax().constants())


def whole_table() -> SoftmaxUnit:
    spec = ConSmax(tables="whole")
    return spec.unit(lanes=1, constants=spec.constants())


def softermax(storage: str = "flip-flops") -> SoftmaxUnit:
    spec = Softermax(input=Q(3, 1), power_segments=2, reciprocal_segments=2, slice_width=2)
    return spec.unit(lanes=2, max_row=8, storage=storage)


def mapped(unit: SoftmaxUnit, library: Library | None = None) -> Mapped:
    """Return a unit mapped with the fastest recipe to run."""
    source = Source("unit", {"design.il": to_rtlil(unit, "unit")})
    (design,) = map_design(source, library or library_of("sky130"), 5.0, ["small"])
    return design
