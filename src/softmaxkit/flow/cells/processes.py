"""The processes that come with the package: compact tables of their cells, and how these are derived.

    python -m softmaxkit.flow.cells.processes sky130 sky130_fd_sc_hd__tt_025C_1v80.lib.gz

derives the tables of one from its Liberty files again.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softmaxkit.flow.cells.library import Arc, Cell, Library, Pin, Setup, State, Table
from softmaxkit.flow.cells.reading import library_from_liberty

FOLDER = "softmaxkit.flow.cells"


class Process(NamedTuple):
    """A process whose cells come with the package.

    Attributes:
        title: for people.
        wire: in pF, the estimate of a net's wire for each pin that it drives.
        clock: in ns, the period at which figures are given where none is asked for.
        left_out: patterns of cells that are of no use here: delay lines, scan, power switches, enable flip-flops.
    """

    title: str
    wire: float
    clock: float
    left_out: tuple[str, ...]


PROCESSES = {
    "sky130": Process(
        "SkyWater 130 nm high density, tt, 25 C, 1.8 V",
        # 20 um to each pin at 0.2 fF/um.
        0.004,
        8.0,
        tuple(
            f"sky130_fd_sc_hd__{each}"
            for each in (
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
        # 1 um to each pin at 0.2 fF/um.
        0.0002,
        1.0,
        ("SDF*", "ICG*DC*", "FAx1*", "HAxp5*", "HB*", "CKINV*", "BUFx*f*"),
    ),
}

LIMIT = 4
"""Significant digits of a figure."""


@cache
def library_of(process: str) -> Library:
    """Return the cells of a process, from the tables that come with the package.

    Raises:
        ValueError: there is no such process.
    """
    if process not in PROCESSES:
        raise ValueError(f"cells are {' or '.join(map(repr, PROCESSES))}, not {process!r}")
    packed = (files(FOLDER) / f"{process}.json.gz").read_bytes()
    return from_json(json.loads(gzip.decompress(packed)), PROCESSES[process].wire)


def derive(process: str, paths: Sequence[Path]) -> Library:
    """Return the cells of a process from its Liberty files, tables thinned out."""
    library = library_from_liberty(paths).without(PROCESSES[process].left_out)
    return replace(library, cells={name: _thin(cell) for name, cell in library.cells.items()})


def _thin(cell: Cell) -> Cell:
    """Return a cell with every other point of its larger tables."""
    return replace(
        cell,
        arcs=tuple(Arc(*arc[:4], *map(thinned, arc[4:])) for arc in cell.arcs),
        energy={key: thinned(table, 3) for key, table in cell.energy.items()},
        input_energy={key: thinned(table, 3) for key, table in cell.input_energy.items()},
    )


def thinned(table: Table, points: int = 6) -> Table:
    """Return a table with so many points an axis: the ends, and those between that linear interpolation needs most."""
    rows, columns = _needed(table.values, points), _needed(table.values.T, points)
    return Table(table.slews[rows], table.loads[columns], table.values[np.ix_(rows, columns)])


def _needed(values: Any, points: int) -> Any:
    """Return the indices to keep of the first axis: those whose leaving out would change most."""
    kept = list(range(len(values)))
    while len(kept) > points:
        # Points are close together where slews and loads are small, so what counts is the relative change.
        part = values[kept]
        middle = np.sqrt(np.abs(part[:-2] * part[2:])) + 1e-12
        change = np.abs(part[1:-1] - (part[:-2] + part[2:]) / 2) / middle
        kept.pop(1 + int(np.argmin(change.max(axis=1))))
    return np.asarray(kept)


def to_json(library: Library) -> dict[str, Any]:
    """Return a library as JSON; axes, which many tables share, stand once."""
    axes: dict[tuple[float, ...], int] = {}

    def axis(values: Any) -> int:
        return axes.setdefault(tuple(_rounded(values)), len(axes))

    def table(given: Table) -> list[Any]:
        return [axis(given.slews), axis(given.loads), _rounded(given.values.ravel())]

    cells = {
        cell.name: {
            "area": cell.area,
            "leakage": cell.leakage,
            "pins": {name: [pin.output, pin.capacitance, pin.function, pin.limit] for name, pin in cell.pins.items()},
            "arcs": [[*arc[:4], *(table(each) for each in arc[4:])] for arc in cell.arcs],
            "setups": [[*setup[:3], table(setup.rise), table(setup.fall)] for setup in cell.setups],
            "energy": [[*key, table(each)] for key, each in cell.energy.items()],
            "input_energy": [[key, table(each)] for key, each in cell.input_energy.items()],
            "state": cell.state,
        }
        for cell in library.cells.values()
    }
    return {"name": library.name, "voltage": library.voltage, "cells": cells, "axes": [list(each) for each in axes]}


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{LIMIT}g}") for value in values]


def from_json(found: dict[str, Any], wire: float = 0.0) -> Library:
    """Return a library from JSON."""
    axes = [np.asarray(each) for each in found["axes"]]

    def table(given: list[Any]) -> Table:
        slews, loads = axes[given[0]], axes[given[1]]
        return Table(slews, loads, np.asarray(given[2]).reshape(len(slews), len(loads)))

    def cells() -> Iterator[Cell]:
        for name, each in found["cells"].items():
            state = each["state"]
            yield Cell(
                name,
                each["area"],
                each["leakage"],
                {pin: Pin(*given) for pin, given in each["pins"].items()},
                tuple(Arc(*given[:4], *map(table, given[4:])) for given in each["arcs"]),
                tuple(Setup(*given[:3], *map(table, given[3:])) for given in each["setups"]),
                {(output, related): table(given) for output, related, given in each["energy"]},
                {pin: table(given) for pin, given in each["input_energy"]},
                State(state[0], (state[1][0], state[1][1]), *state[2:]) if state else None,
            )

    return Library(found["name"], found["voltage"], {cell.name: cell for cell in cells()}, wire)


def main(process: str, *paths: str) -> None:
    """Write the tables of a process."""
    text = json.dumps(to_json(derive(process, [Path(each) for each in paths])), separators=(",", ":"))
    target = Path(__file__).parent / f"{process}.json.gz"
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{target.name}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
