"""SRAM macros, read from Liberty files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from softmaxkit.flow.cells.characteristics import read_leakage
from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import Group, LibertyError, located, read_liberty
from softmaxkit.flow.cells.units import Units

SELECTS = {"csb": 0, "cen": 0, "ceb": 0, "csn": 0, "cs_n": 0, "ce_n": 0, "cs": 1, "ce": 1, "ce_in": 1, "me": 1}
WRITES = {"web": 0, "wen": 0, "gwen": 0, "we_n": 0, "we": 1, "we_in": 1, "write": 1}
"""Pins that conditions may refer to, in lower case and without the port number, with their active level."""

OPENRAM = re.compile(r"_[TSF]{2}_\d+p\d+V_-?\d+C_lib")
"""The suffix that OpenRAM appends to the name of a macro for the name of its library."""


LARGEST_WIDTH, LARGEST_ADDRESS = 65536, 32
"""No macro has longer words or addresses; a file that says so is wrong."""


class Macro(NamedTuple):
    """An SRAM macro.

    Attributes:
        name: name of its cell.
        width: bits per word.
        depth: number of words.
        ports: 2 if a word can be read while another is written, else 1.
        area: area in um2.
        write, read: energy of the whole macro in a cycle with such an access, in pJ.
        idle: the same in a cycle without an access, with the clock running.
        leakage: leakage power in nW.
        period: minimum clock period in ns; 0 if unknown.
        source: source of the figures.
    """

    name: str
    width: int
    depth: int
    ports: int
    area: float
    write: float
    read: float
    idle: float
    leakage: float
    period: float
    source: str


def macros_from_liberty(paths: Sequence[Path]) -> list[Macro]:
    """Read the SRAM macros of Liberty files, plain or gzip: cells with a group `memory`.

    The energy of an access is the `internal_power` of the rising plus the falling clock edge, summed over supplies and
    averaged over input slews. OpenRAM's files instead give the mean power in mW of cycles that access a 1 and of cycles
    that access a 0 (write_lib in OpenRAM's characterizer/lib.py): the energy is then the mean of both times the minimum
    period, with which they were simulated.

    Raises:
        LibertyError: a file is damaged, has no macro, or does not give the energy of one; the message names what is
            missing.
        OSError: a file cannot be read.
    """
    macros: list[Macro] = []
    for path in paths:
        library = read_liberty(path)
        cells = [cell for cell in library.of("cell") if cell.first("memory") is not None]
        if not cells:
            raise LibertyError(f"{path}: no cell has a memory group with address_width and word_width; is it an SRAM?")
        with located(path, library):
            units = Units(library)
        for cell in cells:
            with located(path, cell):
                macros.append(_read_macro(cell, library, units, path.name))
    return macros


def _read_macro(cell: Group, library: Group, units: Units, source: str) -> Macro:
    memory = cell.first("memory")
    assert memory is not None
    width, bits = (memory.number(name) for name in ("word_width", "address_width"))
    area = cell.number("area")
    if not (width >= 1 and bits >= 1 and area > 0):
        raise LibertyError(f"cell {cell.name} must have an area, a word_width and an address_width, all above 0")
    if not (width.is_integer() and width <= LARGEST_WIDTH and bits.is_integer() and bits <= LARGEST_ADDRESS):
        raise LibertyError(
            f"cell {cell.name}: word_width must be a whole number up to {LARGEST_WIDTH} and address_width one up to "
            f"{LARGEST_ADDRESS}, got {width:g} and {bits:g}"
        )
    clocks = [pin for pin in cell.of("pin") if pin.values.get("clock", "").lower() == "true"]
    period = max((_period(pin, units) for pin in clocks), default=0.0)
    openram = library.name.startswith(cell.name) and OPENRAM.fullmatch(library.name.removeprefix(cell.name))
    if openram and not period:
        raise LibertyError(f"cell {cell.name} has no minimum_period, over which OpenRAM averages its powers")
    # mW times ns is pJ, and OpenRAM's two values are alternatives, not edges of one cycle.
    scale = period / 2 / units.energy if openram else 1.0
    energies = {pin.name: {kind: _energy(pin, kind, units, scale) for kind in STATES} for pin in clocks}
    writes = {
        access.values.get("address"): access.values.get("clocked_on") for access in _accesses(cell, "memory_write")
    }
    reads = {access.values.get("address") for access in _accesses(cell, "memory_read")}
    two_ports = bool(writes) and bool(reads - set(writes)) and len(clocks) > 1
    writing = next((pin.name for pin in clocks if pin.name in writes.values()), clocks[0].name if clocks else "")
    reading = next(pin.name for pin in reversed(clocks) if pin.name != writing) if two_ports else writing
    write, read = (energies.get(pin, {}).get(kind) for pin, kind in ((writing, "write"), (reading, "read")))
    if write is None or read is None:
        raise LibertyError(f"cell {cell.name} has no internal_power of its clock for reads and writes")
    idles = {pin: energy["idle"] or 0.0 for pin, energy in energies.items()}
    idle = sum(idles.values())
    if openram:  # each power is that of the whole macro
        idle = min(idles.values())
    else:
        write, read = write + idle - idles[writing], read + idle - idles[reading]
    leakage = read_leakage(cell, units) or 0.0
    ports = 2 if two_ports else 1
    return Macro(cell.name, int(width), 1 << int(bits), ports, area, write, read, idle, leakage, period, source)


STATES = {"write": [(True, True)], "read": [(True, False)], "idle": [(False, False), (False, True)]}
"""Values of (selected, writing) in each kind of cycle; the write pin of an idle macro may be at either level."""


def _accesses(cell: Group, kind: str) -> Iterator[Group]:
    for group in cell.groups:
        if group.kind in ("bus", "pin"):
            yield from group.of(kind)


def _period(clock: Group, units: Units) -> float:
    """Return the minimum period of a clock in ns; 0 if there is none."""
    periods = [
        float(table.values.max())
        for timing in clock.of("timing")
        if timing.values.get("timing_type") == "minimum_period"
        for name in ("rise_constraint", "fall_constraint")
        if (table := units.constraint(timing.first(name))) is not None
    ]
    return max(periods, default=0.0)


def _energy(clock: Group, kind: str, units: Units, scale: float) -> float | None:
    """Return the energy of a kind of cycle in pJ from a clock's `internal_power`; None if that does not give it."""
    cycles = [
        sum(_edges(power, units) for power in powers)
        for state in STATES[kind]
        if (powers := [power for power in clock.of("internal_power") if _applies(power, state)])
    ]
    return scale * sum(cycles) / len(cycles) if cycles else None


def _edges(power: Group, units: Units) -> float:
    both = units.power(power.first("power"))
    tables = (units.power(power.first(name)) or both for name in ("rise_power", "fall_power"))
    return sum(float(table.values.mean()) for table in tables if table is not None)


def _applies(power: Group, state: tuple[bool, bool]) -> bool:
    """Return whether the condition of a group is true for a value of (selected, writing).

    Raises:
        LibertyError: the condition refers to a pin that is neither in `SELECTS` nor in `WRITES`.
    """
    condition = power.values.get("when")
    if condition is None:
        return True
    pins = {}
    for pin in (function := expression(condition)).names:
        name = re.sub(r"_?\d+$", "", pin.lower())
        if name not in SELECTS | WRITES:
            known = ", ".join([*SELECTS, *WRITES])
            raise LibertyError(f"the condition {condition!r} refers to the unknown pin {pin}; known pins are {known}")
        selected, writing = state
        pins[pin] = int(SELECTS[name] == selected if name in SELECTS else WRITES[name] == writing)
    return bool(function(1, pins))
