"""Netlists of standard cells, as arrays for timing, activity and power analysis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from softmaxkit.flow.cells.library import Cell, Library
from softmaxkit.flow.tools import DesignError, ToolError
from softmaxkit.formats import Array

ZERO, ONE = 0, 1
"""The constant nets."""


class Group(NamedTuple):
    """All instances of one library cell.

    Attributes:
        cell: the library cell.
        instances: int64, (n,): indices of the instances.
        nets: int64, (n,), by pin; -1 where a pin is not connected.
    """

    cell: Cell
    instances: Array
    nets: dict[str, Array]


@dataclass(frozen=True)
class Netlist:
    """A flat netlist.

    Attributes:
        library: the library of its cells.
        names: names of its instances, with the hierarchy that they were flattened from.
        groups: the instances by library cell.
        nets: number of nets; the first two are the constants 0 and 1.
        inputs, outputs: nets of each port by port name, lowest bit first.
        clock: name of the clock input; empty if there is none.
    """

    library: Library
    names: list[str]
    groups: tuple[Group, ...]
    nets: int
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]
    clock: str

    @cached_property
    def fan_outs(self) -> Array:
        """Number of input pins that each net drives; int64, (nets,)."""
        pins = np.zeros(self.nets, np.int64)
        for group in self.groups:
            for pin in group.cell.inputs:
                np.add.at(pins, group.nets[pin][group.nets[pin] >= 0], 1)
        return pins

    @cached_property
    def loads(self) -> Array:
        """Capacitance of each net in pF, of its pins and its estimated wire; float64, (nets,)."""
        loads = self.fan_outs * self.library.wire
        for group in self.groups:
            for name, pin in group.cell.pins.items():
                connected = group.nets[name] >= 0
                np.add.at(loads, group.nets[name][connected], pin.capacitance)
        return loads

    def loads_with(self, output: float) -> Array:
        """Return the capacitance of each net in pF, with a load at each output port; float64, (nets,)."""
        loads = self.loads.copy()
        for nets in self.outputs.values():
            np.add.at(loads, nets, output)
        return loads

    @cached_property
    def clock_nets(self) -> Array:
        """Which nets carry the clock, gated or not; boolean, (nets,)."""
        clocks = np.zeros(self.nets, np.bool_)
        clocks[self.inputs.get(self.clock, [])] = True
        while True:
            before = clocks.sum()
            for group in self.groups:
                state = group.cell.state
                pins = group.cell.inputs if state is None else [group.cell.clock_pin] if state.kind == "gate" else []
                reached = np.zeros(len(group.instances), np.bool_)
                for pin in pins:
                    reached |= (group.nets[pin] >= 0) & clocks[group.nets[pin]]
                for pin in group.cell.outputs:
                    nets = group.nets[pin][reached]
                    clocks[nets[nets >= 0]] = True
            if clocks.sum() == before:
                return clocks

    def areas(self, part_of: Callable[[str], str] = lambda name: "") -> dict[str, float]:
        """Return the area of each part in um2; `part_of` maps the name of an instance to its part."""
        areas: dict[str, float] = {}
        for group in self.groups:
            for instance in group.instances:
                part = part_of(self.names[instance])
                areas[part] = areas.get(part, 0.0) + group.cell.area
        return areas

    def counts(self) -> dict[str, int]:
        """Return the number of instances of each library cell."""
        return {group.cell.name: len(group.instances) for group in self.groups}

    def with_library(self, library: Library) -> Netlist:
        """Return the same netlist with the cells of the same names in another library."""
        groups = tuple(group._replace(cell=library.cells[group.cell.name]) for group in self.groups)
        return replace(self, library=library, groups=groups)

    @cached_property
    def _places(self) -> Array:
        """Group of each instance, and its place in it; int64, (instances, 2)."""
        places = np.zeros((len(self.names), 2), np.int64)
        for number, group in enumerate(self.groups):
            places[group.instances, 0] = number
            places[group.instances, 1] = np.arange(len(group.instances))
        return places

    def cell(self, instance: int) -> Cell:
        """Return the library cell of an instance."""
        return self.groups[int(self._places[instance, 0])].cell

    def pins(self, instance: int) -> dict[str, int]:
        """Return the net of each pin of an instance; -1 where a pin is not connected."""
        group, place = self._places[instance]
        return {pin: int(nets[place]) for pin, nets in self.groups[group].nets.items()}

    def with_cells(self, cells: Mapping[int, Cell]) -> Netlist:
        """Return the netlist with other library cells for some instances, by index, with the same pins and function."""
        rows: dict[str, list[Group]] = {}
        moved = np.asarray([*cells], np.int64)
        for group in self.groups:
            leaving = np.isin(group.instances, moved)
            rows.setdefault(group.cell.name, []).append(_of(group, ~leaving, group.cell))
            for place in np.flatnonzero(leaving):
                cell = cells[int(group.instances[place])]
                rows.setdefault(cell.name, []).append(_of(group, np.asarray([place]), cell))
        groups = (_joined(parts) for _, parts in sorted(rows.items()))
        changed = replace(self, groups=tuple(group for group in groups if len(group.instances)))
        # Functions and connections stay, and with them what follows from these alone.
        vars(changed).update(fan_outs=self.fan_outs, clock_nets=self.clock_nets, levels=self.levels)
        return changed

    @cached_property
    def levels(self) -> Array:
        """Logic level of each instance, 1 more than the highest of its drivers, 0 for sequential cells; (instances,).

        Raises:
            ToolError: there is a combinational loop; the message names some of the instances.
        """
        driver = np.full(self.nets, -1, np.int64)
        combinational = np.zeros(len(self.names), np.bool_)
        for group in self.groups:
            if group.cell.state is None:
                combinational[group.instances] = True
                for pin in group.cell.outputs:
                    nets = group.nets[pin]
                    driver[nets[nets >= 0]] = group.instances[nets >= 0]
        sources, sinks = [], []
        for group in self.groups:
            if group.cell.state is None:
                for pin in group.cell.inputs:
                    before = np.where(group.nets[pin] >= 0, driver[group.nets[pin]], -1)
                    sources.append(before[before >= 0])
                    sinks.append(group.instances[before >= 0])
        source, sink = (np.concatenate([np.zeros(0, np.int64), *ends]) for ends in (sources, sinks))
        order = np.argsort(source, kind="stable")
        source, sink = source[order], sink[order]
        starts = np.searchsorted(source, np.arange(len(self.names) + 1))
        waiting = np.bincount(sink, minlength=len(self.names))
        level = np.zeros(len(self.names), np.int64)
        ready, depth, done = np.nonzero(combinational & (waiting == 0))[0], 1, 0
        while len(ready):
            level[ready] = depth
            done += len(ready)
            spans = [sink[starts[instance] : starts[instance + 1]] for instance in ready]
            reached = np.concatenate([np.zeros(0, np.int64), *spans])
            np.subtract.at(waiting, reached, 1)
            ready = np.unique(reached[waiting[reached] == 0])
            depth += 1
        if done < combinational.sum():
            stuck = [self.names[instance] for instance in np.nonzero(combinational & (waiting > 0))[0][:5]]
            raise DesignError(f"the design has a combinational loop, through or before {', '.join(stuck)}")
        return level


def _of(group: Group, which: Array, cell: Cell) -> Group:
    """Return some instances of a group, as instances of a cell with the same pins."""
    return Group(cell, group.instances[which], {pin: nets[which] for pin, nets in group.nets.items()})


def _joined(groups: Sequence[Group]) -> Group:
    """Return several groups of one cell as one, in the order of their instances."""
    instances = np.concatenate([group.instances for group in groups])
    order = np.argsort(instances)
    columns = {pin: np.concatenate([group.nets[pin] for group in groups])[order] for pin in groups[0].nets}
    return Group(groups[0].cell, instances[order], columns)


def read_netlist(design: dict[str, Any], top: str, library: Library) -> Netlist:
    """Read a flat netlist from Yosys's JSON.

    Args:
        design: the JSON.
        top: name of the module.
        library: the library of its cells.

    Raises:
        ToolError: it has a cell that is not in the library, or a port that is neither input nor output.
    """
    module = design["modules"][top]
    numbers: dict[Any, int] = {}

    def net(bit: Any) -> int:
        if isinstance(bit, str):
            return ONE if bit == "1" else ZERO
        return numbers.setdefault(bit, len(numbers) + 2)

    ports: dict[str, dict[str, list[int]]] = {"input": {}, "output": {}}
    for name, port in module["ports"].items():
        if port["direction"] not in ports:
            raise DesignError(f"port {name} of {top} is an {port['direction']}; only inputs and outputs can be mapped")
        ports[port["direction"]][name] = [net(bit) for bit in port["bits"]]
    names: list[str] = []
    by_cell: dict[str, list[tuple[int, dict[str, list[Any]]]]] = {}
    for name, cell in module["cells"].items():
        if cell["type"] == "$scopeinfo":
            continue
        if cell["type"] not in library.cells:
            raise ToolError(f"{name} is a {cell['type']}, which is not a cell of {library.name}")
        by_cell.setdefault(cell["type"], []).append((len(names), cell["connections"]))
        names.append(name)
    groups = []
    for name, members in sorted(by_cell.items()):
        library_cell = library.cells[name]
        nets = {
            pin: np.asarray([net(bits[pin][0]) if bits.get(pin) else -1 for _, bits in members], np.int64)
            for pin in library_cell.pins
        }
        groups.append(Group(library_cell, np.asarray([instance for instance, _ in members], np.int64), nets))
    return Netlist(
        library,
        names,
        tuple(groups),
        len(numbers) + 2,
        ports["input"],
        ports["output"],
        clock_of(groups, ports["input"]),
    )


def clock_of(groups: Sequence[Group], inputs: dict[str, list[int]]) -> str:
    """Return the input that clocks most flip-flops and clock gates, or else most latches; empty if there is none."""
    votes: Counter[int] = Counter()
    clocked = [group for group in groups if group.cell.state is not None]
    gates = [group for group in clocked if group.cell.state is not None and group.cell.state.kind != "latch"]
    for group in gates or clocked:
        votes.update(group.nets[group.cell.clock_pin].tolist())
    counts = {name: sum(votes[net] for net in nets) for name, nets in inputs.items() if len(nets) == 1}
    best = max(counts, key=lambda name: counts[name], default="")
    return best if best and counts[best] else ""
