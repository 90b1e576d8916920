"""Pipelines that advance as a whole: all registers move while the output is free and hold while it is stalled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar, cast

from amaranth.hdl import Cat, Const, Module, Signal, Value

State = TypeVar("State")


class Pipeline:
    """A chain of stages from one stream to another.

    The datapath is written as plain expressions, with a `cut` wherever a register may stand; `registers` says where
    one does. `finish` adds the output register. A bubble is a stage with its valid bit at 0; its data registers hold.

    Args:
        m: the module that the pipeline is part of.
        name: prefix of its signals.
        valid: a beat enters.
        sink: the stream interface that the pipeline drives.
        registers: names of the cuts that get a register.

    Attributes:
        advance: the pipeline moves; use it as the ready of whatever feeds the pipeline.
        valid: the stage built last holds a beat.
        busy: any stage built so far, behind the input, holds a beat.
    """

    def __init__(self, m: Module, name: str, valid: Value, sink: Any, registers: Collection[str]) -> None:
        self.m, self.name, self.sink, self.registers = m, name, sink, registers
        self.advance = Signal(name=f"{name}_advance")
        self.valid: Value = valid
        self.busy: Value = sink.valid
        m.d.comb += self.advance.eq(is_free(sink))

    @property
    def fire(self) -> Value:
        """The stage built last holds a beat, which moves on at this clock edge."""
        return self.valid & self.advance

    def cut(self, name: str, state: State) -> State:
        """Return `state` behind the register called `name`, or unchanged if there is no register at this cut.

        Args:
            name: of the cut.
            state: values, in any nesting of lists, tuples and dicts.
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
        """Return `state` behind the register called `name`, which is written only for beats where `when` is high.

        Call it before the `cut` of that name, for values that stay the same over the following beats or that only
        such beats need: registers that hold burn no energy.
        """
        if name not in self.registers:
            return state
        pairs: list[tuple[Signal, Value]] = []
        held = _registers(state, f"{self.name}_{name}", pairs)
        with self.m.If(self.fire & when):
            self.m.d.sync += [register.eq(value) for register, value in pairs]
        return cast(State, held)

    def keep(self, condition: Value) -> None:
        """Drop the beats at this stage for which a condition does not hold."""
        self.valid = self.valid & condition

    def finish(self, payload: Value, state: Value | None = None) -> None:
        """Add the output register in front of the sink.

        Args:
            payload: what it holds.
            state: the top bits of the payload, if they already are registers that are written when this stage fires.
        """
        with self.m.If(self.advance):
            self.m.d.sync += self.sink.valid.eq(self.valid)
        held = Signal(len(payload), name=f"{self.name}_payload", reset_less=True)
        with self.m.If(self.fire):
            self.m.d.sync += held.eq(payload)
        self.m.d.comb += Value.cast(self.sink.payload).eq(held if state is None else Cat(held, state))


def is_free(sink: Any) -> Value:
    """Return whether the register in front of a stream can be written."""
    free: Value = ~sink.valid | sink.ready
    return free


def choose_cuts(cuts: Sequence[str], depth: int | None, default: int, fixed: int = 1) -> frozenset[str]:
    """Return the cuts that get a register in a unit of `depth` registers from input to output.

    Args:
        cuts: all cuts, the most useful first.
        depth: number of registers; None for the default.
        default: the unit's own depth.
        fixed: registers that are always there, such as the output register.

    Raises:
        ValueError: the unit cannot have this depth.
    """
    depth = default if depth is None else depth
    most = fixed + len(cuts)
    if type(depth) is not int or not fixed <= depth <= most:
        raise ValueError(f"depth is a whole number from {fixed} to {most} for this unit, not {depth!r}")
    return frozenset(cuts[: depth - fixed])


def named(m: Module, name: str, value: Any) -> Signal:
    """Give a value its own signal: for a readable netlist, and so that shared logic is built once."""
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def resized(value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, truncated or zero-extended."""
    return Cat(value, Const(0, bits - len(value))) if len(value) < bits else value[:bits]


def _registers(state: Any, name: str, pairs: list[tuple[Signal, Value]]) -> Any:
    """Return `state` with every value replaced by a register; append the pairs of register and value to `pairs`."""
    if isinstance(state, dict):
        return {key: _registers(value, f"{name}_{key}", pairs) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        fields = {key: getattr(state, key) for key in state._fields}
        return type(state)(**_registers(fields, name, pairs))
    if isinstance(state, list | tuple):
        return type(state)(_registers(value, f"{name}_{index}", pairs) for index, value in enumerate(state))
    if isinstance(state, Const):
        return state
    value = Value.cast(state)
    register = Signal(value.shape(), name=name, reset_less=True)
    pairs.append((register, value))
    return register
