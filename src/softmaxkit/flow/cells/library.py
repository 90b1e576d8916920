"""Cell libraries: function, area, timing and energy of each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.formats import Array

SHOWN = 6
"""Names that a remark gives; it counts the others."""

Sense = Literal["positive_unate", "negative_unate", "non_unate"]


class Table(NamedTuple):
    """A look-up table over slew in ns and load in pF; for setup and hold times, over the slews of data and clock.

    Attributes:
        slews: float64, (s,), ascending.
        loads: float64, (l,), ascending.
        values: float64, (s, l).
    """

    slews: Array
    loads: Array
    values: Array

    def combined(self, other: Table, how: Callable[[Array, Array], Array]) -> Table:
        """Combine two tables, on the grid of this one."""
        if np.array_equal(self.slews, other.slews) and np.array_equal(self.loads, other.loads):
            return self._replace(values=how(self.values, other.values))
        return self._replace(values=how(self.values, other.at(self.slews[:, None], self.loads[None, :])))

    def at(self, slew: Array, load: Array) -> Array:
        """Return values at slews and loads, which broadcast: linear between the points and beyond them."""
        below, part = _place(self.slews, slew)
        left, side = _place(self.loads, load)
        above, right = np.minimum(below + 1, len(self.slews) - 1), np.minimum(left + 1, len(self.loads) - 1)
        grid = self.values
        low = grid[below, left] * (1 - side) + grid[below, right] * side
        high = grid[above, left] * (1 - side) + grid[above, right] * side
        values: Array = low * (1 - part) + high * part
        return values


def _place(axis: Array, at: Array) -> tuple[Array, Array]:
    """Return the interval of an axis that a point is in, and its position in it from 0 to 1."""
    if len(axis) == 1:
        return np.zeros(np.shape(at), np.int64), np.zeros(np.shape(at))
    below = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    return below, (at - axis[below]) / (axis[below + 1] - axis[below])


class Arc(NamedTuple):
    """A timing arc from an input to an output.

    Attributes:
        output, related: pins.
        sense: unateness; non_unate for an arc from a clock.
        edge: edge of the related pin that triggers it: "rise", "fall", or "" for both.
        rise, fall: delays in ns to the rising and falling edge of the output.
        rise_slew, fall_slew: transition times in ns of these edges.
    """

    output: str
    related: str
    sense: Sense
    edge: str
    rise: Table
    fall: Table
    rise_slew: Table
    fall_slew: Table


class Constraint(NamedTuple):
    """A setup or hold time.

    Attributes:
        pin, clock: pins.
        edge: of the clock, "rise" or "fall".
        rise, fall: in ns, for the rising and falling edge of the input; over the slews of data and clock.
    """

    pin: str
    clock: str
    edge: str
    rise: Table
    fall: Table


class Pin(NamedTuple):
    """A pin of a cell.

    Attributes:
        output: whether the cell drives it.
        capacitance: in pF.
        function: of an output, in Liberty's notation; in a sequential cell, of the state; empty if there is none.
        limit: largest load of an output in pF; 0 if not specified.
    """

    output: bool
    capacitance: float
    function: str
    limit: float = 0.0


class State(NamedTuple):
    """The state of a sequential cell.

    Attributes:
        kind: "flip-flop", "latch", or "gate" for a clock gate.
        names: of the state and its inverse in the cell's functions.
        clock: function: a flip-flop changes when it rises, a latch is open while it is high.
        data: function of the next state; for a clock gate, of the enable.
        clear, preset: functions, empty if there is none.
    """

    kind: Literal["flip-flop", "latch", "gate"]
    names: tuple[str, str]
    clock: str
    data: str
    clear: str = ""
    preset: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        name: in the library.
        area: in um2.
        leakage: in nW, mean over its states.
        pins: by name.
        arcs: timing arcs.
        setups, holds: setup and hold times of a sequential cell.
        energy: internal energy in pJ per edge of an output, by (output, input that caused it): the mean of rise and
            fall, in which the energy of the load cancels out.
        input_energy: in pJ per edge of an input that causes no edge of an output.
        state: of a sequential cell.
    """

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    arcs: tuple[Arc, ...] = ()
    setups: tuple[Constraint, ...] = ()
    energy: dict[tuple[str, str], Table] = field(default_factory=dict)
    input_energy: dict[str, Table] = field(default_factory=dict)
    state: State | None = None
    holds: tuple[Constraint, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [name for name, pin in self.pins.items() if not pin.output]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [name for name, pin in self.pins.items() if pin.output]

    @property
    def is_tie(self) -> bool:
        """Whether it is a tie cell, which drives constants."""
        return self.state is None and not self.inputs and bool(self.outputs)

    @property
    def clock_pin(self) -> str:
        """The input that clocks the state."""
        assert self.state is not None
        return next(name for name in self.inputs if name in expression(self.state.clock).names)

    @property
    def state_output(self) -> str:
        """The output that shows the state as it is; empty if there is none."""
        assert self.state is not None
        shown = self.state.names[0]
        return next((name for name in self.outputs if expression(self.pins[name].function).plain == shown), "")


def some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@dataclass(frozen=True)
class Library:
    """A library of cells.

    Attributes:
        name: from its Liberty file.
        voltage: in V.
        cells: by name.
        wire: estimated wire capacitance in pF per pin that a net drives.
        remarks: what its reader has to say, with the names of the cells: "left out for dont_use", for one.
    """

    name: str
    voltage: float
    cells: dict[str, Cell]
    wire: float = 0.0
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, patterns: Sequence[str]) -> Library:
        """Return the library without the cells whose names match one of the shell patterns."""

        def kept(name: str) -> bool:
            return not any(fnmatchcase(name, pattern) for pattern in patterns)

        remarks = {remark: tuple(filter(kept, names)) for remark, names in self.remarks.items()}
        return replace(self, cells={name: cell for name, cell in self.cells.items() if kept(name)}, remarks=remarks)

    @property
    def remark(self) -> str:
        """The remarks in one line, with the first names of each; empty if there are none."""
        return "; ".join(f"{remark}: {some(names)}" for remark, names in self.remarks.items() if names)

    @cached_property
    def latches(self) -> dict[bool, Cell]:
        """The smallest plain latches, by polarity: True for transparent while the clock is high."""
        return self._smallest_state("latch")

    @cached_property
    def clock_gates(self) -> dict[bool, Cell]:
        """The smallest clock gate for rising-edge registers, under True; empty if there is none."""
        return self._smallest_state("gate")

    def _smallest_state(self, kind: str) -> dict[bool, Cell]:
        smallest: dict[bool, Cell] = {}
        for cell in sorted(self.cells.values(), key=lambda cell: (cell.area, cell.name)):
            state = cell.state
            if state is None or state.kind != kind or state.clear or state.preset:
                continue
            if kind == "gate" or (len(cell.inputs) == 2 and state.data in cell.inputs and cell.state_output):
                smallest.setdefault(state.clock == cell.clock_pin, cell)
        return smallest

    def computing(self, function: Callable[..., int], inputs: int) -> list[Cell]:
        """Return the single-output cells that compute a function of this many inputs, the smallest first."""
        rows = [[(row >> bit) & 1 for bit in range(inputs)] for row in range(1 << inputs)]
        wanted = tuple(function(*row) for row in rows)
        matching = [
            cell
            for cell in self.cells.values()
            if cell.state is None
            and (len(cell.inputs), len(cell.outputs)) == (inputs, 1)
            and (text := cell.pins[cell.outputs[0]].function)
            and expression(text).truth(cell.inputs) == wanted
        ]
        return sorted(matching, key=lambda cell: (cell.area, cell.name))

    def smallest(self, function: Callable[..., int], inputs: int) -> Cell:
        """Return the smallest single-output cell that computes a function of this many inputs.

        Raises:
            LookupError: there is none.
        """
        matching = self.computing(function, inputs)
        if not matching:
            raise LookupError(f"{self.name} has no such cell of {inputs} inputs")
        return matching[0]
