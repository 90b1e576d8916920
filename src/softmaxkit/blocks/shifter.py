"""Shifts to the right with one rounding: the hardware of `softmaxkit.formats.shift_right`."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Value

from softmaxkit.blocks.pipeline import named
from softmaxkit.formats import Rounding


class Shifted(NamedTuple):
    """A number cut at the point: its whole part, the bit of one half below, and whether anything is left below that."""

    whole: Value
    half: Value
    rest: Value

    def round_up(self, rounding: Rounding) -> Value:
        """Return whether rounding adds 1 to the whole part."""
        if rounding == "floor":
            return Const(0)
        return self.half & (self.rest | self.whole[:1].any()) if rounding == "nearest" else self.half | self.rest


def shift(m: Module, name: str, value: Value, amount: Value | int, fraction_bits: int = 0) -> Shifted:
    """Shift to the right and cut at the point; the arguments are those of `shift_right`."""
    if isinstance(amount, int):
        amount, fraction_bits = Const(0, 0), fraction_bits + amount
    # At least one bit below the point, for the half. What is below that now stays below it.
    padding = max(1 - fraction_bits, 0)
    current = Cat(Const(0, padding), value, Const(0, max(fraction_bits - len(value), 0)))
    below = fraction_bits + padding - 1
    sticky = named(m, f"{name}_below", current[:below].any())
    current = current[below:]
    for place in range(len(amount)):
        step = min(1 << place, len(current))
        lost = current[:step].any()
        sticky = named(m, f"{name}_sticky_{place}", sticky | (amount[place] & lost))
        current = named(m, f"{name}_by_{1 << place}", Mux(amount[place], current >> step, current))
    return Shifted(current[1:], current[0], sticky)


def shift_right(
    m: Module, name: str, value: Value, amount: Value | int, rounding: Rounding = "nearest", fraction_bits: int = 0
) -> Value:
    """Return `value * 2**-(amount + fraction_bits)`, rounded once.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        value: unsigned.
        amount: unsigned, or an int of 0 or more.
        rounding: "nearest" (ties to even), "floor" or "ceil".
        fraction_bits: bits of `value` below the result's point before the shift; may be negative.

    Returns:
        Unsigned, wide enough for any result: one bit more than the whole bits of `value` where rounding can go up.
    """
    found = shift(m, name, value, amount, fraction_bits)
    if rounding == "floor":
        return named(m, name, found.whole)
    return named(m, name, found.whole + found.round_up(rounding))


def rounding_addend(places: int, rounding: Rounding) -> int:
    """Return what is added to a number, in a sum that is formed anyway, so that `cut_rounded` only has to cut it."""
    return {"nearest": 1 << (places - 1), "floor": 0, "ceil": (1 << places) - 1}[rounding]


def cut_rounded(
    m: Module, name: str, value: Value, places: int, rounding: Rounding = "nearest", below: Value | None = None
) -> Value:
    """Round a number to its bits from `places` up, 1 or more, after `rounding_addend` was added to it.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        value: unsigned, the sum.
        places: how many bits go.
        rounding: that of the addend.
        below: whether anything is left below the bits of `value`.
    """
    whole = value[places:]
    if rounding == "nearest":
        # In a tie, which goes to even, the half has left no bit behind.
        tie = ~value[:places].any() if below is None else ~(value[:places].any() | below)
        whole = Cat(whole[0] & ~tie, whole[1:])
    return named(m, name, whole)


def saturate(m: Module, name: str, value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, the largest code where it does not fit."""
    if len(value) <= bits:
        return named(m, name, Cat(value, Const(0, bits - len(value))))
    return named(m, name, Mux(value[bits:].any(), (1 << bits) - 1, value[:bits]))
