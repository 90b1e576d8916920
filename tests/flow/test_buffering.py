"""Buffers before registers: trees of limited fan-out that leave the function unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from netlists import PREFIX

from softmaxkit.flow.buffering import MOST, buffer_registers
from softmaxkit.flow.cells.library import Library
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.netlist import read_netlist
from softmaxkit.flow.timing import analyse


def chain(registers: int) -> dict[str, Any]:
    """Return a register that drives the given number of other registers, and a gate."""

    def cell(kind: str, **pins: int) -> dict[str, Any]:
        return {"type": PREFIX + kind, "connections": {pin: [net] for pin, net in pins.items()}}

    cells = {"first": cell("dfxtp_1", CLK=2, D=3, Q=4), "gate": cell("inv_1", A=4, Y=5)}
    cells |= {f"rows.word{i}.bit": cell("dfxtp_1", CLK=2, D=4, Q=6 + i) for i in range(registers)}
    ports = {"clk": ("input", [2]), "in": ("input", [3]), "out": ("output", [5, *range(6, 6 + registers)])}
    return {"ports": {k: {"direction": side, "bits": bits} for k, (side, bits) in ports.items()}, "cells": cells}


def registers_of(module: dict[str, Any], net: int, library: Library) -> list[str]:
    """Return the registers that a net drives, directly or through buffers."""
    names = []
    for name, cell in module["cells"].items():
        state, pins = library.cells[cell["type"]].state, cell["connections"]
        if state is not None and pins["D"] == [net]:
            names.append(name)
        elif "fanout" in name and pins["A"] == [net]:
            beyond = registers_of(module, pins["X"][0], library)
            assert beyond
            names += beyond
    return names


@pytest.mark.parametrize("registers", [1, MOST, MOST + 1, 256, 1000])
def test_a_tree_reaches_every_register(registers: int) -> None:
    library = library_of("sky130")
    module = chain(registers)
    count = buffer_registers(module, library)
    levels = [registers]
    while levels[-1] > MOST:
        levels.append(-(-levels[-1] // MOST))
    assert count == sum(levels[1:])
    assert sorted(registers_of(module, 4, library)) == sorted(f"rows.word{i}.bit" for i in range(registers))
    netlist = read_netlist({"modules": {"top": module}}, "top", library)
    clock = np.asarray(netlist.clock_nets)
    assert netlist.fan_outs[~clock].max() <= MOST + 1  # the gate stays on the original net
    assert netlist.clock == "clk"
    assert all(name.startswith("rows.") for name in netlist.names if "fanout" in name)


def test_buffers_speed_up_a_net_with_many_registers() -> None:
    library = library_of("sky130")
    plain, buffered = chain(256), chain(256)
    buffer_registers(buffered, library)
    before, after = (
        analyse(read_netlist({"modules": {"top": module}}, "top", library)).period for module in (plain, buffered)
    )
    assert after < before / 2


def test_without_buffers_nothing_is_changed() -> None:
    library = library_of("sky130").without([f"{PREFIX}*buf*"])
    module = chain(256)
    assert buffer_registers(module, library) == 0
    assert module == chain(256)
