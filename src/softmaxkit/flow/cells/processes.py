"""The bundled processes: compact tables of their cells, and their derivation from Liberty files.

    python -m softmaxkit.flow.cells.processes sky130 sky130_fd_sc_hd__tt_025C_1v80.lib.gz

regenerates the tables of a process.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softmaxkit.files import write_bytes
from softmaxkit.flow.cells.library import Arc, Cell, Constraint, Library, Pin, State
from softmaxkit.flow.cells.reading import library_from_liberty
from softmaxkit.flow.cells.table import Table
from softmaxkit.script import one_line_errors

FOLDER = "softmaxkit.flow.cells"


class Process(NamedTuple):
    """A process whose cells come with the package.

    Attributes:
        title: full name.
        wire: estimated wire capacitance in pF per pin that a net drives.
        clock: default clock period in ns.
        left_out: patterns of the names of cells that are not used, such as delay lines, scan and enable flip-flops.
    """

    title: str
    wire: float
    clock: float
    left_out: tuple[str, ...]


PROCESSES = {
    "sky130": Process(
        "SkyWater 130 nm high density, tt, 25 C, 1.8 V",
        # 20 um of wire to each pin, at 0.2 fF/um.
        0.004,
        8.0,
        tuple(
            f"sky130_fd_sc_hd__{pattern}"
            for pattern in (
                "lpflow*",
                "probe*",
                "macro*",
                "diode*",
                "decap*",
                "dly*",
                "clkdly*",
                "clkinvlp*",
                "sdf*",
                "sedf*",
                "edf*",
                "sdlclk*",
                "ebuf*",
                "einv*",
                "df?bp*",
                "dl?b?_*",
                "dfbb*",
                "fa*",
                "ha_*",
            )
        ),
    ),
    "asap7": Process(
        "ASAP7 7.5-track RVT, TT, 25 C, 0.7 V",
        # 1 um of wire to each pin, at 0.2 fF/um.
        0.0002,
        1.0,
        ("SDF*", "ICG*DC*", "FAx1*", "HAxp5*", "HB*", "CKINV*", "BUFx*f*"),
    ),
}

LIMIT = 4
"""Number of significant digits in the tables."""


@cache
def library_of(process: str) -> Library:
    """Return the cells of a process from the bundled tables.

    Raises:
        ValueError: there is no such process.
    """
    if process not in PROCESSES:
        raise ValueError(f"cells must be {' or '.join(map(repr, PROCESSES))}, got {process!r}")
    packed = (files(FOLDER) / f"{process}.json.gz").read_bytes()
    return from_json(json.loads(gzip.decompress(packed)), PROCESSES[process].wire)


def derive(process: str, paths: Sequence[Path]) -> Library:
    """Return the cells of a process from its Liberty files, with tables thinned out."""
    library = library_from_liberty(paths).without(PROCESSES[process].left_out)
    return replace(library, cells={name: _thin(cell) for name, cell in library.cells.items()})


def _thin(cell: Cell) -> Cell:
    """Return a cell with its tables thinned out."""
    return replace(
        cell,
        arcs=tuple(Arc(*arc[:4], *map(thinned, arc[4:])) for arc in cell.arcs),
        energy={key: thinned(table, 3) for key, table in cell.energy.items()},
        input_energy={key: thinned(table, 3) for key, table in cell.input_energy.items()},
    )


def thinned(table: Table, points: int = 6) -> Table:
    """Return a table of at most `points` points per axis: the ends, and those that linear interpolation needs most."""
    rows, columns = _needed(table.values, points), _needed(table.values.T, points)
    return Table(table.slews[rows], table.loads[columns], table.values[np.ix_(rows, columns)])


def _needed(values: Any, points: int) -> Any:
    """Return the indices to keep along the first axis: those whose removal would change the table most."""
    indices = list(range(len(values)))
    while len(indices) > points:
        # Compare relative changes, since points lie close together at small slews and loads.
        part = values[indices]
        middle = np.sqrt(np.abs(part[:-2] * part[2:])) + 1e-12
        change = np.abs(part[1:-1] - (part[:-2] + part[2:]) / 2) / middle
        indices.pop(1 + int(np.argmin(change.max(axis=1))))
    return np.asarray(indices)


def to_json(library: Library) -> dict[str, Any]:
    """Return a library as JSON; axes that tables share are stored once."""
    axes: dict[tuple[float, ...], int] = {}

    def axis(values: Any) -> int:
        return axes.setdefault(tuple(_rounded(values)), len(axes))

    def packed(table: Table) -> list[Any]:
        return [axis(table.slews), axis(table.loads), _rounded(table.values.ravel())]

    cells = {
        cell.name: {
            "area": cell.area,
            "leakage": cell.leakage,
            "pins": {name: [pin.output, pin.capacitance, pin.function, pin.limit] for name, pin in cell.pins.items()},
            "arcs": [[*arc[:4], *map(packed, arc[4:])] for arc in cell.arcs],
            "setups": [[*setup[:3], packed(setup.rise), packed(setup.fall)] for setup in cell.setups],
            "holds": [[*hold[:3], packed(hold.rise), packed(hold.fall)] for hold in cell.holds],
            "energy": [[*pins, packed(table)] for pins, table in cell.energy.items()],
            "input_energy": [[pin, packed(table)] for pin, table in cell.input_energy.items()],
            "state": cell.state,
        }
        for cell in library.cells.values()
    }
    return {"name": library.name, "voltage": library.voltage, "cells": cells, "axes": [list(values) for values in axes]}


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{LIMIT}g}") for value in values]


def from_json(library: dict[str, Any], wire: float = 0.0) -> Library:
    """Return a library from JSON."""
    axes = [np.asarray(values) for values in library["axes"]]

    def table(packed: list[Any]) -> Table:
        slews, loads = axes[packed[0]], axes[packed[1]]
        return Table(slews, loads, np.asarray(packed[2]).reshape(len(slews), len(loads)))

    def cells() -> Iterator[Cell]:
        for name, cell in library["cells"].items():
            state = cell["state"]
            yield Cell(
                name,
                cell["area"],
                cell["leakage"],
                {pin: Pin(*fields) for pin, fields in cell["pins"].items()},
                tuple(Arc(*arc[:4], *map(table, arc[4:])) for arc in cell["arcs"]),
                tuple(Constraint(*setup[:3], *map(table, setup[3:])) for setup in cell["setups"]),
                {(output, related): table(packed) for output, related, packed in cell["energy"]},
                {pin: table(packed) for pin, packed in cell["input_energy"]},
                State(state[0], (state[1][0], state[1][1]), *state[2:]) if state else None,
                tuple(Constraint(*hold[:3], *map(table, hold[3:])) for hold in cell["holds"]),
            )

    return Library(library["name"], library["voltage"], {cell.name: cell for cell in cells()}, wire)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of a process from its Liberty files."""
    parser = argparse.ArgumentParser(prog="python -m softmaxkit.flow.cells.processes", description=main.__doc__)
    parser.add_argument("process", choices=[*PROCESSES])
    parser.add_argument("liberty", nargs="+", type=Path, metavar="FILE", help="Liberty files, plain or gzip")
    chosen = parser.parse_args(arguments)
    target = Path(__file__).parent / f"{chosen.process}.json.gz"
    with one_line_errors(parser):
        text = json.dumps(to_json(derive(chosen.process, chosen.liberty)), separators=(",", ":"))
        write_bytes(target, gzip.compress(text.encode(), 9, mtime=0))
    print(f"{target.name}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
