"""Pipelines that advance as a whole: every register moves on while the output is free, and holds while it is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar, cast

from amaranth.hdl import Cat, Const, Module, Signal, Value

State = TypeVar("State")


class Pipeline:
    """A chain of stages from one stream to another.

    The datapath is written as plain expressions, with `cut` at each place where a register may stand; `registers`
    says where one does. `finish` puts the last register in front of the sink. A bubble travels as a stage whose valid
    bit is 0; its data registers keep still.

    Args:
        m: the module that the pipeline is part of.
        name: prefix of its signals.
        valid: does a beat enter?
        sink: the stream interface that the pipeline drives.
        registers: names of the cuts that hold a register.

    Attributes:
        advance: the pipeline moves; what offers beats to it is ready where this is high.
        valid: the stage reached so far holds a beat.
        busy: a stage behind the entry, of those that are built so far, holds a beat.
    """

    def __init__(self, m: Module, name: str, valid: Value, sink: Any, registers: Collection[str]) -> None:
        self.m, self.name, self.sink, self.registers = m, name, sink, registers
        self.advance = Signal(name=f"{name}_advance")
        self.valid: Value = valid
        self.busy: Value = sink.valid
        m.d.comb += self.advance.eq(~sink.valid | sink.ready)

    @property
    def fire(self) -> Value:
        """A beat is at the stage reached so far, and moves on from it at this clock edge."""
        return self.valid & self.advance

    def cut(self, name: str, state: State) -> State:
        """Return `state` behind the register called `name`, or as it is where none stands there.

        Args:
            name: of the cut.
            state: values, in any nest of lists, tuples and dicts.
        """
        if name not in self.registers:
            return state
        held = self.hold(name, state, Const(1))
        valid = Signal(name=f"{self.name}_{name}_valid")
        with self.m.If(self.advance):
            self.m.d.sync += valid.eq(self.valid)
        self.valid, self.busy = valid, self.busy | valid
        return held

    def hold(self, name: str, state: State, when: Value) -> State:
        """Return `state` behind the register called `name`, which is written for beats for which `when` holds alone.

        To be called before the `cut` of that name, for what is the same for all the beats that follow, or what only
        such beats are asked for: registers that keep still take no energy.
        """
        if name not in self.registers:
            return state
        pairs: list[tuple[Signal, Value]] = []
        held = _registers(state, f"{self.name}_{name}", pairs)
        with self.m.If(self.fire & when):
            self.m.d.sync += [register.eq(value) for register, value in pairs]
        return cast(State, held)

    def keep(self, condition: Value) -> None:
        """Let only beats go on for which a condition holds; the others end at the stage reached so far."""
        self.valid = self.valid & condition

    def finish(self, payload: Value, state: Value | None = None) -> None:
        """Put the last register in front of the sink.

        Args:
            payload: what it holds.
            state: the payload's highest bits, where they are registers already that this stage writes when it fires.
        """
        with self.m.If(self.advance):
            self.m.d.sync += self.sink.valid.eq(self.valid)
        held = Signal(len(payload), name=f"{self.name}_payload", reset_less=True)
        with self.m.If(self.fire):
            self.m.d.sync += held.eq(payload)
        self.m.d.comb += Value.cast(self.sink.payload).eq(held if state is None else Cat(held, state))


def choose_cuts(cuts: Sequence[str], depth: int | None, default: int, fixed: int = 1) -> frozenset[str]:
    """Return the cuts that hold a register where a unit has `depth` of them from input to output.

    Args:
        cuts: all of them, the most useful first.
        depth: how many registers; None for the default.
        default: of the unit.
        fixed: registers that are always there, as that at the output.

    Raises:
        ValueError: a depth that the unit cannot have.
    """
    depth = default if depth is None else depth
    most = fixed + len(cuts)
    if type(depth) is not int or not fixed <= depth <= most:
        raise ValueError(f"depth is a whole number from {fixed} to {most} for this unit, not {depth!r}")
    return frozenset(cuts[: depth - fixed])


def named(m: Module, name: str, value: Any) -> Signal:
    """Give a value a signal of its own, for a readable netlist and to be shared without being built twice."""
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def resized(value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, cut or with zero bits added."""
    return Cat(value, Const(0, bits - len(value))) if len(value) < bits else value[:bits]


def _registers(state: Any, name: str, pairs: list[tuple[Signal, Value]]) -> Any:
    """Return `state` with a register in the place of every value, and note the pairs of register and value."""
    if isinstance(state, dict):
        return {key: _registers(each, f"{name}_{key}", pairs) for key, each in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        fields = {key: getattr(state, key) for key in state._fields}
        return type(state)(**_registers(fields, name, pairs))
    if isinstance(state, list | tuple):
        return type(state)(_registers(each, f"{name}_{index}", pairs) for index, each in enumerate(state))
    if isinstance(state, Const):
        return state
    value = Value.cast(state)
    register = Signal(value.shape(), name=name, reset_less=True)
    pairs.append((register, value))
    return register
