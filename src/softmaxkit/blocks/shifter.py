"""Right shifts with a single rounding, matching `softmaxkit.formats.shift_right`."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Value

from softmaxkit.blocks.pipeline import named
from softmaxkit.formats import Rounding


class Shifted(NamedTuple):
    """A number split at the binary point: integer part, half bit, and sticky bit."""

    whole: Value
    half: Value
    rest: Value

    def round_up(self, rounding: Rounding) -> Value:
        """Return whether rounding adds 1 to the integer part."""
        if rounding == "floor":
            return Const(0)
        return self.half & (self.rest | self.whole[:1].any()) if rounding == "nearest" else self.half | self.rest


def shift(m: Module, name: str, value: Value, amount: Value | int, fraction_bits: int = 0) -> Shifted:
    """Shift right and split at the binary point; the arguments are those of `shift_right`."""
    if isinstance(amount, int):
        amount, fraction_bits = Const(0, 0), fraction_bits + amount
    # At least one bit below the point, for the half bit. Everything below that only goes into the sticky bit.
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
        fraction_bits: bits of `value` below the result's binary point before the shift; may be negative.

    Returns:
        Unsigned, wide enough for any result: one bit more than the integer bits of `value` if rounding can go up.
    """
    shifted = shift(m, name, value, amount, fraction_bits)
    if rounding == "floor":
        return named(m, name, shifted.whole)
    return named(m, name, shifted.whole + shifted.round_up(rounding))


def rounding_addend(places: int, rounding: Rounding) -> int:
    """Return the rounding constant to fold into a sum that is formed anyway, so that `cut_rounded` only truncates."""
    return {"nearest": 1 << (places - 1), "floor": 0, "ceil": (1 << places) - 1}[rounding]


def cut_rounded(
    m: Module, name: str, value: Value, places: int, rounding: Rounding = "nearest", below: Value | None = None
) -> Value:
    """Drop the lowest `places` bits, 1 or more, of a sum that includes `rounding_addend`.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        value: unsigned, the sum.
        places: bits to drop.
        rounding: the same as for the addend.
        below: sticky bit of what lies below `value`.
    """
    whole = value[places:]
    if rounding == "nearest":
        # All dropped bits at 0 after adding the half: a tie, which goes to even.
        tie = ~value[:places].any() if below is None else ~(value[:places].any() | below)
        whole = Cat(whole[0] & ~tie, whole[1:])
    return named(m, name, whole)


def saturate(m: Module, name: str, value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, clamped to the largest code if it does not fit."""
    if len(value) <= bits:
        return named(m, name, Cat(value, Const(0, bits - len(value))))
    return named(m, name, Mux(value[bits:].any(), (1 << bits) - 1, value[:bits]))
