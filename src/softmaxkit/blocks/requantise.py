"""Signed numbers brought to a narrower format: a shift with one rounding, and saturation."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed

from softmaxkit.blocks.pipeline import named


def round_places(m: Module, name: str, value: Value, places: int) -> Value:
    """Return a signed value divided by `2**places`, rounded to nearest, ties to even; as `formats.shift_right` does."""
    if places == 0:
        return named(m, name, value)
    wide = _extended(m, name, value, places)
    # One less than half, and the one back if the quotient is odd, carries just when rounding goes up.
    raised = named(m, f"{name}_raised", wide + Const((1 << (places - 1)) - 1) + wide[places])
    return named(m, name, raised[places:].as_signed())


def round_shifted(m: Module, name: str, value: Value, amount: Value, places: int = 0) -> Value:
    """Return a signed value divided by `2**(amount + places)`, rounded as `round_places` does.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        value: signed.
        amount: unsigned.
        places: 0 or more.
    """
    # The lowest bit that is kept is the half; all below goes into the sticky bit.
    below, wide = max(places - 1, 0), _extended(m, name, value, places)
    current = named(m, f"{name}_above", (wide[below:] if places else Cat(Const(0, 1), wide)).as_signed())
    sticky = named(m, f"{name}_below", wide[:below].any())
    for place in range(len(amount)):
        step = min(1 << place, len(current))
        sticky = named(m, f"{name}_sticky_{place}", sticky | (amount[place] & current[:step].any()))
        current = named(m, f"{name}_by_{1 << place}", Mux(amount[place], current >> step, current))
    whole = current[1:].as_signed()
    return named(m, name, whole + (current[0] & (sticky | whole[0])))


def saturate_to(m: Module, name: str, value: Value, shape: Shape) -> Signal:
    """Return a signed value in a signed shape, clamped to its ends."""
    most = 1 << (shape.width - 1)
    result = Signal(shape, name=name)
    m.d.comb += result.eq(Mux(value > most - 1, most - 1, Mux(value < -most, -most, value)))
    return result


def _extended(m: Module, name: str, value: Value, places: int) -> Signal:
    """Return a signed value with a bit more than the places that are cut off, at least."""
    wide = Signal(signed(max(len(value), places + 1)), name=f"{name}_wide")
    m.d.comb += wide.eq(value)
    return wide
