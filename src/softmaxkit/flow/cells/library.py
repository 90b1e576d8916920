"""Cell libraries: what each cell costs, computes and takes in time and energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.formats import Array

Sense = Literal["positive_unate", "negative_unate", "non_unate"]


class Table(NamedTuple):
    """Figures on a grid: against slew in ns and load in pF, or, of setup times, against the slews of data and clock.

    Attributes:
        slews: float64, (s,), rising.
        loads: float64, (l,), rising.
        values: float64, (s, l).
    """

    slews: Array
    loads: Array
    values: Array

    def combined(self, other: Table, how: Callable[[Array, Array], Array]) -> Table:
        """Return two tables as one, on this one's grid."""
        if np.array_equal(self.slews, other.slews) and np.array_equal(self.loads, other.loads):
            return self._replace(values=how(self.values, other.values))
        return self._replace(values=how(self.values, other.at(self.slews[:, None], self.loads[None, :])))

    def at(self, slew: Array, load: Array) -> Array:
        """Return the figures at slews and loads, which broadcast: linear between the points and beyond them."""
        below, part = _place(self.slews, slew)
        left, side = _place(self.loads, load)
        above, right = np.minimum(below + 1, len(self.slews) - 1), np.minimum(left + 1, len(self.loads) - 1)
        grid = self.values
        low = grid[below, left] * (1 - side) + grid[below, right] * side
        high = grid[above, left] * (1 - side) + grid[above, right] * side
        found: Array = low * (1 - part) + high * part
        return found


def _place(axis: Array, at: Array) -> tuple[Array, Array]:
    """Return the interval of an axis, and where in it, of which the ends are 0 and 1."""
    if len(axis) == 1:
        return np.zeros(np.shape(at), np.int64), np.zeros(np.shape(at))
    below = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    return below, (at - axis[below]) / (axis[below + 1] - axis[below])


class Arc(NamedTuple):
    """How an output follows an input.

    Attributes:
        output, related: pins.
        sense: of the output's edge to the input's; of an arc from a clock, non_unate.
        edge: of the related pin that starts it: "rise", "fall", or "" for both.
        rise, fall: delays in ns to the output's edges.
        rise_slew, fall_slew: durations in ns of these edges.
    """

    output: str
    related: str
    sense: Sense
    edge: str
    rise: Table
    fall: Table
    rise_slew: Table
    fall_slew: Table


class Setup(NamedTuple):
    """How long before an edge of its clock an input has to be there.

    Attributes:
        pin, clock: pins.
        edge: of the clock, "rise" or "fall".
        rise, fall: in ns, for the input's edges.
    """

    pin: str
    clock: str
    edge: str
    rise: Table
    fall: Table


class Pin(NamedTuple):
    """A pin of a cell.

    Attributes:
        output: does the cell drive it?
        capacitance: in pF, of an input.
        function: of an output, in Liberty's language; of a sequential cell's, of its state. Empty where there is none.
        limit: of an output, the load in pF that it may drive; 0 where none is told.
    """

    output: bool
    capacitance: float
    function: str
    limit: float = 0.0


class State(NamedTuple):
    """What a sequential cell holds.

    Attributes:
        kind: "flip-flop", "latch", or "gate", which lets a clock through.
        names: of the state and of its inverse, as functions use them.
        clock: function: the state changes when it rises; of a latch, while it is high.
        data: function of the next state; of a gate, of the enable.
        clear, preset: functions, empty where there is none.
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
        name: of the library.
        area: in um2.
        leakage: in nW, the mean over its states.
        pins: by name.
        arcs: how outputs follow inputs.
        setups: of sequential cells.
        energy: in pJ of each edge of an output, by (output, input that caused it): the mean of rise and fall, in which
            the part of the load cancels out.
        input_energy: in pJ of each edge of an input that no output follows.
        state: of a sequential cell.
    """

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    arcs: tuple[Arc, ...] = ()
    setups: tuple[Setup, ...] = ()
    energy: dict[tuple[str, str], Table] = field(default_factory=dict)
    input_energy: dict[str, Table] = field(default_factory=dict)
    state: State | None = None

    @property
    def inputs(self) -> list[str]:
        """Names of its inputs."""
        return [name for name, pin in self.pins.items() if not pin.output]

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return [name for name, pin in self.pins.items() if pin.output]

    @property
    def is_tie(self) -> bool:
        """Does it only give 0 or 1?"""
        return self.state is None and not self.inputs and bool(self.outputs)

    @property
    def clock_pin(self) -> str:
        """The input that its state's clock is made of."""
        assert self.state is not None
        return next(name for name in self.inputs if name in expression(self.state.clock).names)


@dataclass(frozen=True)
class Library:
    """A library of cells.

    Attributes:
        name: of the library.
        voltage: in V.
        cells: by name.
        wire: in pF, the estimate of a net's wire for each pin that it drives.
    """

    name: str
    voltage: float
    cells: dict[str, Cell]
    wire: float = 0.0

    def without(self, patterns: Sequence[str]) -> Library:
        """Return the library without the cells whose names match a pattern, as of the shell."""
        from fnmatch import fnmatchcase

        kept = {k: v for k, v in self.cells.items() if not any(fnmatchcase(k, each) for each in patterns)}
        return replace(self, cells=kept)

    @cached_property
    def latches(self) -> dict[bool, Cell]:
        """The smallest plain latch of each polarity that there is: transparent while its clock is high, or low."""
        return self._smallest_state("latch")

    @cached_property
    def clock_gates(self) -> dict[bool, Cell]:
        """The smallest cell that gates a clock that works on its rising edge."""
        return self._smallest_state("gate")

    def _smallest_state(self, kind: str) -> dict[bool, Cell]:
        found: dict[bool, Cell] = {}
        for cell in sorted(self.cells.values(), key=lambda each: (each.area, each.name)):
            state = cell.state
            if state is not None and state.kind == kind and not state.clear and not state.preset:
                found.setdefault(state.clock == cell.clock_pin, cell)
        return found

    def computing(self, function: Callable[..., int], inputs: int) -> list[Cell]:
        """Return the cells of one output that compute a function of inputs in any order, the smallest first."""
        rows = [[(row >> bit) & 1 for bit in range(inputs)] for row in range(1 << inputs)]
        wanted = tuple(function(*row) for row in rows)
        found = [
            cell
            for cell in self.cells.values()
            if cell.state is None
            and (len(cell.inputs), len(cell.outputs)) == (inputs, 1)
            and (text := cell.pins[cell.outputs[0]].function)
            and expression(text).truth(cell.inputs) == wanted
        ]
        return sorted(found, key=lambda cell: (cell.area, cell.name))

    def smallest(self, function: Callable[..., int], inputs: int) -> Cell:
        """Return the smallest cell of one output that computes a function of so many inputs, in any order of pins.

        Raises:
            LookupError: there is none.
        """
        found = self.computing(function, inputs)
        if not found:
            raise LookupError(f"{self.name} has no such cell of {inputs} inputs")
        return found[0]
