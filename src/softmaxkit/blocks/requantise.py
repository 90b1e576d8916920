"""Requantisation of signed numbers to a narrower format: a shift with a single rounding, and saturation."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed

from softmaxkit.blocks.pipeline import named


def round_places(m: Module, name: str, value: Value, places: int) -> Value:
    """Return a signed value divided by `2**places`, rounded to nearest, ties to even, like `rounding.shift_right`."""
    if places == 0:
        return named(m, name, value)
    wide = _extended(m, name, value, places)
    # Adding one less than half, plus 1 if the quotient is odd, carries exactly when rounding goes up.
    raised = named(m, f"{name}_raised", wide + Const((1 << (places - 1)) - 1) + wide[places])
    return named(m, name, raised[places:].as_signed())


def round_shifted(m: Module, name: str, value: Value, amount: Value, places: int = 0) -> Value:
    """Return a signed value divided by `2**(amount + places)`, rounded like `round_places`.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        value: signed.
        amount: variable part of the shift, unsigned.
        places: constant part of the shift, 0 or more.
    """
    # The lowest bit of `current` is the half bit; everything below it goes into the sticky bit.
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
    """Return a signed value clamped to the range of a signed shape."""
    most = 1 << (shape.width - 1)
    result = Signal(shape, name=name)
    m.d.comb += result.eq(Mux(value > most - 1, most - 1, Mux(value < -most, -most, value)))
    return result


def _extended(m: Module, name: str, value: Value, places: int) -> Signal:
    """Return a signed value, sign-extended to at least one bit more than the `places` that are dropped."""
    wide = Signal(signed(max(len(value), places + 1)), name=f"{name}_wide")
    m.d.comb += wide.eq(value)
    return wide
