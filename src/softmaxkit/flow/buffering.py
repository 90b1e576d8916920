"""Buffer trees for nets that drive many registers: ABC sees such a net as a single load and does not buffer it."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmaxkit.flow.cells.library import Cell, Library

MOST = 16
"""Registers and latches that a net may drive without buffers. ABC buffers nets of gates at about this fan-out."""

SLEW = 0.1
"""Input slew in ns at which buffers are compared; faster processes rank them in the same order."""


def buffer_registers(module: dict[str, Any], library: Library) -> int:
    """Insert a buffer tree wherever a net drives more than `MOST` registers.

    Clocks are not buffered, since they are treated as ideal. A buffer belongs to the component of the first register
    that it drives.

    Args:
        module: in Yosys's JSON form; changed in place.
        library: the cells. Without a buffer among them, nothing is changed.

    Returns:
        the number of buffers inserted.
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
"""The other keys of a cell in Yosys's JSON."""


def _buffer(library: Library) -> Cell | None:
    """Return the buffer with the lowest delay times area when it drives `MOST` of the library's registers."""
    buffers = library.computing(lambda pin: pin, 1)
    registers = [cell for cell in library.cells.values() if cell.state is not None and cell.state.kind != "gate"]
    if not buffers or not registers:
        return None
    pins = [cell.pins[pin].capacitance for cell in registers for pin in cell.inputs if pin != cell.clock_pin]
    load = MOST * (float(np.median(pins)) + library.wire)

    def cost(cell: Cell) -> float:
        (arc, *_) = cell.arcs
        delay = max(float(table.at(np.float64(SLEW), np.float64(load))) for table in (arc.rise, arc.fall))
        return delay * cell.area

    return min(buffers, key=cost)
