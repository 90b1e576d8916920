"""Sizing by timing: cells on the longest paths of a mapped netlist are replaced by other drive strengths.

ABC sizes gates by its own estimate of their delays, which knows neither the registers nor what they drive, so that a
netlist may miss the clock by a few percent. Here, timing analysis of the whole netlist judges every replacement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.arcs import FALL, RISE, senses
from softmaxkit.flow.cells.library import Cell, Library
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.mapping import Mapped
from softmaxkit.flow.netlist import Netlist, read_netlist
from softmaxkit.flow.timing import INPUT_SLEW, OUTPUT_LOAD, Step, Timing, analyse

REACH = 1.1
"""Longest period, relative to the clock, from which sizing is tried. It shortens a period by 2 to 10%."""

ANALYSES = 200
"""Greatest number of analyses of a netlist."""

PATHS = 16
"""Number of paths that are shortened at once: lanes and bits of a word have paths of nearly the same length."""

LEAST = 1e-3
"""Least gain in ns for which a cell is replaced."""

SMALL = 0.1
"""Part of the area of the library's smallest cell; what costs less than that is ranked by its gain alone."""


def resized(mapped: Mapped, clock: float) -> Mapped:
    """Return a mapped design with the `replacements` that shorten its period towards `clock`, in ns."""
    cells, top = replacements(mapped.netlist, clock), mapped.top
    if not cells:
        return mapped
    module = mapped.design["modules"][top]
    resized_cells = {name: cell | {"type": cells.get(name, cell["type"])} for name, cell in module["cells"].items()}
    design = mapped.design | {"modules": mapped.design["modules"] | {top: module | {"cells": resized_cells}}}
    return Mapped(f"{mapped.recipe}, resized", top, read_netlist(design, top, mapped.netlist.library), design)


def replacements(netlist: Netlist, clock: float) -> dict[str, str]:
    """Return the library cells that shorten a netlist's period towards `clock`, in ns, by the name of the instance.

    Greedy: of the cells on the longest paths, those are replaced that gain most for their area, as many as the excess
    takes by estimate. They stay if the period is no longer, the excess of all paths together is smaller, and no hold
    slack turns negative; otherwise half of them are tried. It ends after `ANALYSES`, or when nothing is left to try.
    """
    families = _families(netlist.library)
    number = {name: instance for instance, name in enumerate(netlist.names)}
    replaced: dict[int, Cell] = {}
    refused: set[tuple[int, str]] = set()
    timing = analyse(netlist, paths=PATHS)
    chosen: dict[int, _Move] = {}
    for _ in range(ANALYSES):
        if timing.period <= clock:
            break
        chosen = chosen or _Sizer(netlist, timing, number, families).choose(clock, refused)
        if not chosen:
            break
        cells = {instance: move.cell for instance, move in chosen.items()}
        trial = netlist.with_cells(cells)
        after = analyse(trial, paths=PATHS)
        holds = after.hold >= min(timing.hold, 0.0)
        if holds and after.period <= timing.period and _excess(after, clock) < _excess(timing, clock):
            netlist, timing, replaced, chosen = trial, after, replaced | cells, {}
        elif len(chosen) == 1:
            refused |= {(instance, cell.name) for instance, cell in cells.items()}
            chosen = {}
        else:
            chosen = dict(list(chosen.items())[: len(chosen) // 2])
    return {netlist.names[instance]: cell.name for instance, cell in replaced.items()}


def _excess(timing: Timing, clock: float) -> float:
    """Return by how much all paths together exceed a clock period, in ns."""
    return float(np.maximum(timing.required - clock, 0.0).sum())


def _families(library: Library) -> dict[str, list[Cell]]:
    """Return the gates and flip-flops with the same pins and functions as a cell, by its name."""
    families: dict[object, list[Cell]] = {}
    for cell in library.cells.values():
        if cell.state.kind == "flip-flop" if cell.state else cell.inputs and cell.outputs:
            pins = sorted((name, pin.output, pin.function) for name, pin in cell.pins.items())
            families.setdefault((tuple(pins), cell.state), []).append(cell)
    return {cell.name: family for family in families.values() for cell in family}


class _Stage(NamedTuple):
    """A cell on a path.

    Attributes:
        instance, cell: index of the instance, and its library cell.
        pins: net of each pin; -1 if it is not connected.
        source, target: net at which its arc begins, None if the path does; net that it drives.
        edge_in, edge_out: edges of these nets.
        slew: slew of the source in ns.
    """

    instance: int
    cell: Cell
    pins: Mapping[str, int]
    source: int | None
    target: int
    edge_in: int
    edge_out: int
    slew: float


class _Move(NamedTuple):
    """A replacement by `cell`: its gain in ns by estimate, and the area in um2 that it costs."""

    gain: float
    area: float
    cell: Cell


class _Sizer:
    """Chooses the replacements of one netlist that is too slow."""

    def __init__(
        self, netlist: Netlist, timing: Timing, number: Mapping[str, int], families: Mapping[str, Sequence[Cell]]
    ) -> None:
        self._netlist, self._timing, self._number, self._families = netlist, timing, number, families
        self._loads = netlist.loads_with(OUTPUT_LOAD).tolist()
        self._small = SMALL * min((cell.area for family in families.values() for cell in family), default=0.0)
        self._moves: dict[tuple[int, ...], list[_Move]] = {}

    def choose(self, clock: float, refused: Set[tuple[int, str]]) -> dict[int, _Move]:
        """Return the moves that gain most for their area, by instance.

        On every path that exceeds the clock, they gain the excess by estimate if they can. A move is not chosen for a
        path if one next to it is.
        """
        chosen: dict[int, _Move] = {}
        for path in self._timing.paths:
            excess = path.steps[-1].time - clock
            if excess <= 0:
                break
            stages = self._stages(path.steps)
            places = [place for place, stage in enumerate(stages) if stage.instance in chosen]
            missing = excess / path.factor - sum(chosen[stages[place].instance].gain for place in places)
            moves = [(place, move) for place in range(len(stages)) for move in self._moves_at(stages, place)]
            for place, move in sorted(moves, key=lambda placed: -placed[1].gain / max(placed[1].area, self._small)):
                if missing <= 0:
                    break
                instance = stages[place].instance
                if (instance, move.cell.name) not in refused and all(abs(place - other) > 1 for other in places):
                    chosen[instance] = move
                    places.append(place)
                    missing -= move.gain
        return chosen

    def _stages(self, path: Sequence[Step]) -> list[_Stage]:
        """Return the cells of a path, from its start to its end."""
        start, *steps, _ = path
        edges = {"rise": RISE, "fall": FALL}
        source, edge_in, slew = None, edges[start.edge], INPUT_SLEW
        stages = []
        for step in steps:
            instance, edge_out = self._number[step.instance], edges[step.edge]
            cell, pins = self._netlist.cell(instance), self._netlist.pins(instance)
            if source is None and cell.state is not None:
                slew = 0.0  # the clock is ideal
            arrivals = self._timing.arrivals
            driven = [pins[pin] for pin in cell.outputs if pins[pin] >= 0]
            target = next(net for net in driven if arrivals[net, edge_out] == step.time)
            stages.append(_Stage(instance, cell, pins, source, target, edge_in, edge_out, slew))
            source, edge_in, slew = target, edge_out, float(self._timing.slews[target, edge_out])
        return stages

    def _moves_at(self, stages: Sequence[_Stage], place: int) -> list[_Move]:
        """Return the moves at a place of a path. Paths that share an edge are the same up to it."""
        key = tuple(number for stage in stages[place : place + 2] for number in (stage.target, stage.edge_out))
        if key not in self._moves:
            self._moves[key] = [move for move in self._gains(stages, place) if move.gain >= LEAST]
        return self._moves[key]

    def _gains(self, stages: Sequence[_Stage], place: int) -> Iterator[_Move]:
        """Yield the replacements at a place, with the gain of the stage, the stage before it and the stage after it."""
        stage, around = stages[place], stages[max(place - 1, 0) : place + 2]
        loads = [self._loads[near.target] for near in around]
        old = [_through(near.cell, near, near.slew, load) for near, load in zip(around, loads, strict=True)]
        own = [pin for pin, net in stage.pins.items() if net == stage.source]
        for cell in self._families.get(stage.cell.name, ()):
            more = sum(cell.pins[pin].capacitance - stage.cell.pins[pin].capacitance for pin in own)
            gain, slew = 0.0, 0.0
            if cell is stage.cell or self._overloaded(cell, stage, 0.0):
                continue
            if place and more > 0 and self._overloaded(around[0].cell, around[0], more):
                continue
            for near, load, (delay, slew_out) in zip(around, loads, old, strict=True):
                built_of, driven = (cell, load) if near is stage else (near.cell, load + more * (near is around[0]))
                new = _through(built_of, near, max(near.slew + slew, 0.0), driven)
                gain, slew = gain + delay - new[0], new[1] - slew_out
            yield _Move(gain, cell.area - stage.cell.area, cell)

    def _overloaded(self, cell: Cell, stage: _Stage, more: float) -> bool:
        """Return whether a stage, if built of `cell`, drives more than it may with `more` pF added to its target."""
        nets = {pin: stage.pins[pin] for pin in cell.outputs if stage.pins[pin] >= 0}
        loads = {pin: self._loads[net] + more * (net == stage.target) for pin, net in nets.items()}
        return any(0 < cell.pins[pin].limit < load for pin, load in loads.items())


def _through(cell: Cell, stage: _Stage, slew: float, load: float) -> tuple[float, float]:
    """Return the longest delay through a stage, if built of `cell`, and the slew after it, in ns."""
    results = []
    for arc in cell.arcs:
        if stage.source is None and cell.state is not None:
            begins = arc.related == cell.clock_pin and bool(arc.edge)
        else:
            connected = stage.source is None or stage.pins[arc.related] == stage.source
            begins = connected and (stage.edge_in, stage.edge_out) in senses(arc.sense, arc.edge)
        if begins and stage.pins[arc.output] == stage.target:
            delay, output_slew = ((arc.rise, arc.rise_slew), (arc.fall, arc.fall_slew))[stage.edge_out]
            results.append((_at(delay, slew, load), _at(output_slew, slew, load)))
    return max(results, default=(0.0, 0.0))


def _at(table: Table, slew: float, load: float) -> float:
    return float(table.at(np.float64(slew), np.float64(load)))
