"""Cell libraries: function, area, timing and energy of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, NamedTuple

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.table import Table

SHOWN = 6
"""Number of names to list in a message; further names are only counted."""

Sense = Literal["positive_unate", "negative_unate", "non_unate"]


class Arc(NamedTuple):
    """A timing arc from an input to an output.

    Attributes:
        output, related: output pin, and input pin at which the arc begins.
        sense: unateness; "non_unate" for an arc from a clock.
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
        pin, clock: constrained input pin and clock pin.
        edge: clock edge, "rise" or "fall".
        rise, fall: times in ns for the rising and falling edge of the input, over the slews of data and clock.
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
        capacitance: capacitance in pF.
        function: function of an output in Liberty notation; in a sequential cell, of the state; empty if there is none.
        limit: maximum load of an output in pF; 0 if not specified.
    """

    output: bool
    capacitance: float
    function: str
    limit: float = 0.0


class State(NamedTuple):
    """The state of a sequential cell.

    Attributes:
        kind: "flip-flop", "latch", or "gate" for a clock gate.
        names: names of the state and its inverse in the cell's functions.
        clock: clock function: a flip-flop changes when it rises, a latch is open while it is high.
        data: function of the next state or, for a clock gate, of the enable.
        clear, preset: asynchronous clear and preset functions; empty if there is none.
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
        name: name in the library.
        area: area in um2.
        leakage: leakage in nW, mean over its states.
        pins: pins by name.
        arcs: timing arcs.
        setups, holds: setup and hold times of a sequential cell.
        energy: internal energy in pJ per edge of an output, by (output, input that caused it): the mean of rise and
            fall, in which the energy of the load cancels out.
        input_energy: internal energy in pJ per edge of an input, by input, spent whether or not an output changes.
        state: state of a sequential cell; None if the cell is combinational.
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
        """The output that equals the state; empty if there is none."""
        assert self.state is not None
        state = self.state.names[0]
        return next((name for name in self.outputs if expression(self.pins[name].function).plain == state), "")


def some(names: Sequence[str]) -> str:
    """Return a list of names for a message: the first ones, and the number of the others."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@dataclass(frozen=True)
class Library:
    """A library of cells.

    Attributes:
        name: name from its Liberty file.
        voltage: supply voltage in V.
        cells: cells by name.
        wire: estimated wire capacitance in pF per pin that a net drives.
        remarks: remarks of the reader, such as "left out for dont_use", with the names of the cells they apply to.
    """

    name: str
    voltage: float
    cells: dict[str, Cell]
    wire: float = 0.0
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, patterns: Sequence[str]) -> Library:
        """Return the library without the cells whose names match one of the shell patterns."""

        def remains(name: str) -> bool:
            return not any(fnmatchcase(name, pattern) for pattern in patterns)

        remarks = {remark: tuple(filter(remains, names)) for remark, names in self.remarks.items()}
        return replace(self, cells={name: cell for name, cell in self.cells.items() if remains(name)}, remarks=remarks)

    @property
    def remark(self) -> str:
        """The remarks in one line, with the first names of each; empty if there are none."""
        return "; ".join(f"{remark}: {some(names)}" for remark, names in self.remarks.items() if names)

    @cached_property
    def latches(self) -> dict[bool, Cell]:
        """The smallest plain latches, by polarity: True for latches that are open while the clock is high."""
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
        """Return the single-output cells that compute a function of `inputs` inputs, the smallest first."""
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
        """Return the smallest single-output cell that computes a function of `inputs` inputs.

        Raises:
            LookupError: there is none.
        """
        matching = self.computing(function, inputs)
        if not matching:
            raise LookupError(f"{self.name} has no such cell with {inputs} inputs")
        return matching[0]
