"""Right shifts with a single rounding, matching `softmaxkit.rounding.shift_right`."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Value

from softmaxkit.blocks.pipeline import named
from softmaxkit.rounding import Rounding


class Shifted(NamedTuple):
    """A number split at the binary point: integer part, half bit, and a sticky bit for everything below."""

    whole: Value
    half: Value
    rest: Value

    def round_up(self, rounding: Rounding) -> Value:
        """Return whether rounding adds 1 to the integer part."""
        if rounding == "floor":
            return Const(0)
        return self.half & (self.rest | self.whole[:1].any()) if rounding == "nearest" else self.half | self.rest


def shift(m: Module, name: str, value: Value, amount: Value | int, fraction_bits: int = 0) -> Shifted:
    """Shift right and split the result at the binary point; arguments as for `shift_right`, without `rounding`."""
    if isinstance(amount, int):
        amount, fraction_bits = Const(0, 0), fraction_bits + amount
    # Keep at least one bit below the point, the half bit; everything below that only feeds the sticky bit.
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
        m: module to add the logic to.
        name: prefix of the signal names.
        value: unsigned.
        amount: unsigned, or a constant of 0 or more.
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
    """Return the rounding constant to include in a sum that exists anyway, so that `cut_rounded` only truncates."""
    return {"nearest": 1 << (places - 1), "floor": 0, "ceil": (1 << places) - 1}[rounding]


def cut_rounded(
    m: Module, name: str, value: Value, places: int, rounding: Rounding = "nearest", below: Value | None = None
) -> Value:
    """Drop the lowest `places` bits, 1 or more, of a sum that includes `rounding_addend`.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        value: unsigned, the sum.
        places: bits to drop.
        rounding: must be that of the addend.
        below: sticky bit of everything below `value`.
    """
    whole = value[places:]
    if rounding == "nearest":
        # If all dropped bits are 0 after the half was added, it was a tie, which goes to even.
        tie = ~value[:places].any() if below is None else ~(value[:places].any() | below)
        whole = Cat(whole[0] & ~tie, whole[1:])
    return named(m, name, whole)


def saturate(m: Module, name: str, value: Value, bits: int) -> Value:
    """Return an unsigned value in `bits` bits, clamped to the largest code if it does not fit."""
    if len(value) <= bits:
        return named(m, name, Cat(value, Const(0, bits - len(value))))
    return named(m, name, Mux(value[bits:].any(), (1 << bits) - 1, value[:bits]))
