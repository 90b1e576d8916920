"""Pipelines that advance as a whole: all registers load while the output is free, and hold while it is stalled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar, cast

from amaranth.hdl import Cat, Const, Module, Signal, Value

State = TypeVar("State")


class Pipeline:
    """A chain of stages from one stream to another.

    The datapath is written as plain expressions, with a `cut` wherever a register may be placed; `registers` selects
    the cuts that get one. `finish` adds the output register. In a bubble the valid bit is 0 and data registers hold.

    Args:
        m: module to add the pipeline to.
        name: prefix of the signal names.
        valid: a beat enters.
        sink: stream that the pipeline drives.
        registers: names of the cuts that get a register.

    Attributes:
        advance: the pipeline moves; also the ready signal for its source.
        valid: the most recently built stage holds a beat.
        busy: any register stage built so far holds a beat.
    """

    def __init__(self, m: Module, name: str, valid: Value, sink: Any, registers: Collection[str]) -> None:
        self.m, self.name, self.sink, self.registers = m, name, sink, registers
        self.advance = Signal(name=f"{name}_advance")
        self.valid: Value = valid
        self.busy: Value = sink.valid
        m.d.comb += self.advance.eq(is_free(sink))

    @property
    def fire(self) -> Value:
        """The most recently built stage holds a beat that moves on at this clock edge."""
        return self.valid & self.advance

    def cut(self, name: str, state: State) -> State:
        """Return `state` registered if the cut `name` has a register, and unchanged if it has none.

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
        """Return `state` registered as in `cut`, with registers that load only for beats where `when` is high.

        Call it before the `cut` of that name, for values that only those beats need or that stay the same for the beats
        that follow: a register that holds uses no switching energy.
        """
        if name not in self.registers:
            return state
        pairs: list[tuple[Signal, Value]] = []
        held = _registers(state, f"{self.name}_{name}", pairs)
        with self.m.If(self.fire & when):
            self.m.d.sync += [register.eq(value) for register, value in pairs]
        return cast(State, held)

    def keep(self, condition: Value) -> None:
        """Drop the beats at this stage for which a condition is false."""
        self.valid = self.valid & condition

    def finish(self, payload: Value, state: Value | None = None) -> None:
        """Add the output register that drives the sink.

        Args:
            payload: to register; without the bits of `state`.
            state: the top bits of the sink's payload, if they are registers already and load when this stage fires.
        """
        with self.m.If(self.advance):
            self.m.d.sync += self.sink.valid.eq(self.valid)
        held = Signal(len(payload), name=f"{self.name}_payload", reset_less=True)
        with self.m.If(self.fire):
            self.m.d.sync += held.eq(payload)
        self.m.d.comb += Value.cast(self.sink.payload).eq(held if state is None else Cat(held, state))


def is_free(sink: Any) -> Value:
    """Return whether the register that drives a stream can load."""
    free: Value = ~sink.valid | sink.ready
    return free


def choose_cuts(cuts: Sequence[str], depth: int | None, default: int, fixed: int = 1) -> frozenset[str]:
    """Return the cuts that get a register in a unit of `depth` register stages.

    Args:
        cuts: all cuts, the most useful first.
        depth: number of register stages from input to output; None for the default.
        default: default depth of the unit.
        fixed: stages that are always present, such as the output register.

    Raises:
        ValueError: the unit cannot be built with this depth.
    """
    depth = default if depth is None else depth
    most = fixed + len(cuts)
    if type(depth) is not int or not fixed <= depth <= most:
        raise ValueError(f"depth is a whole number from {fixed} to {most} for this unit, not {depth!r}")
    return frozenset(cuts[: depth - fixed])


def named(m: Module, name: str, value: Any) -> Signal:
    """Assign a value to a signal of its own, for a readable netlist and so that shared logic is built once."""
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def resized(value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, truncated or zero-extended."""
    return Cat(value, Const(0, bits - len(value))) if len(value) < bits else value[:bits]


def _registers(state: Any, name: str, pairs: list[tuple[Signal, Value]]) -> Any:
    """Return `state` with every value replaced by a register; append each `(register, value)` to `pairs`."""
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
