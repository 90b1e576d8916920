"""Buffers for nets that drive many registers, of which ABC sees but one load."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmaxkit.flow.cells.library import Cell, Library

MOST = 16
"""Registers and latches that a net drives without buffers; ABC itself puts buffers before so many gates, about."""

SLEW = 0.1
"""In ns, the edge at which buffers are compared; in faster processes the order is the same."""


def buffer_registers(module: dict[str, Any], library: Library) -> int:
    """Put buffers between a net and the registers that it drives, where these are more than `MOST`, as a tree.

    Clocks keep their nets: they are ideal here. A buffer counts as part of what the first of its registers is in.

    Args:
        module: as Yosys writes it in JSON; changed in place.
        library: the cells. Without a buffer in it, nothing is done.

    Returns:
        how many buffers were put in.
    """
    buffer = _buffer(library)
    if buffer is None:
        return 0
    sinks: dict[int, list[tuple[str, str]]] = {}
    for name, cell in module["cells"].items():
        known = library.cells.get(cell["type"])
        if known is None or known.state is None:
            continue
        for pin in known.inputs:
            bits = cell["connections"].get(pin)
            if pin != known.clock_pin and bits and not isinstance(bits[0], str):
                sinks.setdefault(bits[0], []).append((name, pin))
    bits_used = [bit for cell in module["cells"].values() for bits in cell["connections"].values() for bit in bits]
    bits_used += [bit for port in module["ports"].values() for bit in port["bits"]]
    free = 1 + max((bit for bit in bits_used if not isinstance(bit, str)), default=0)
    count = 0
    for net, driven in sinks.items():
        while len(driven) > MOST:
            groups = [driven[start : start + MOST] for start in range(0, len(driven), MOST)]
            driven = []
            for group in groups:
                component = group[0][0].rpartition(".")[0]
                name = f"{component}.fanout{count}" if component else f"fanout{count}"
                connections = {buffer.inputs[0]: [net], buffer.outputs[0]: [free]}
                module["cells"][name] = {"type": buffer.name, "connections": connections} | FURTHER
                for sink, pin in group:
                    module["cells"][sink]["connections"][pin] = [free]
                driven.append((name, buffer.inputs[0]))
                count, free = count + 1, free + 1
    return count


FURTHER: dict[str, Any] = {"hide_name": 1, "parameters": {}, "attributes": {}}
"""What Yosys wants of a cell besides."""


def _buffer(library: Library) -> Cell | None:
    """Return the buffer that drives `MOST` of the library's registers soonest for what it is itself to drive."""
    found = library.computing(lambda pin: pin, 1)
    registers = [cell for cell in library.cells.values() if cell.state is not None and cell.state.kind != "gate"]
    if not found or not registers:
        return None
    pins = [cell.pins[pin].capacitance for cell in registers for pin in cell.inputs if pin != cell.clock_pin]
    load = MOST * (float(np.median(pins)) + library.wire)

    def cost(cell: Cell) -> float:
        (arc, *_) = cell.arcs
        delay = max(float(table.at(np.float64(SLEW), np.float64(load))) for table in (arc.rise, arc.fall))
        return delay * cell.area

    return min(found, key=cost)
