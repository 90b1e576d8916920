"""Datapath of the exact unit: ordering of floats, difference, exponential, and final product.

A score is represented as `sign` and `size`: exponent field and mantissa, 0 for every encoding of zero.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed

from softmaxkit.blocks.float_multiplier import Number, round_product
from softmaxkit.blocks.piecewise_linear import along, bend, round_line, segment_of
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.shifter import cut_rounded, rounding_addend, shift
from softmaxkit.formats import Float
from softmaxkit.methods.exact.spec import MAX_DEGREE, Exact

BENDS = tuple(f"bend{step}" for step in range(MAX_DEGREE - 1))
"""Places for registers between the steps of a Taylor series; a spec has one per term beyond the second."""
CUTS = ("exponent", *BENDS, "difference", "fraction", "fixed", "align", "table", "scale")
"""Places for registers inside the exponential, the most useful first."""


class Score(NamedTuple):
    """A float: its sign, and its exponent field and mantissa."""

    sign: Value
    size: Value


class Power(NamedTuple):
    """An exponential, `significand * 2**-(mantissa_bits + 1 + shift)` or 0, and the same as a float without sign."""

    significand: Value
    shift: Value
    zero: Value
    field: Value
    mantissa: Value


def read_score(number: Float, code: Value) -> Score:
    """Read a float code; an exponent field of 0 means 0, regardless of mantissa and sign."""
    real = code[number.mantissa_bits : -1].any()
    return Score(code[-1] & real, Mux(real, code[:-1], 0))


def key_shape(number: Float) -> Shape:
    """Return the shape of an `ordered` score."""
    return signed(number.bits)


def ordered(score: Score) -> Value:
    """Return a signed integer that orders like the score."""
    return Cat(score.size ^ score.sign.replicate(len(score.size)), score.sign).as_signed()


def from_ordered(key: Value) -> Score:
    """Return the score of an `ordered` integer."""
    sign = key.as_unsigned()[-1]
    return Score(sign, key.as_unsigned()[:-1] ^ sign.replicate(len(key) - 1))


def exponentials(
    m: Module, pipe: Pipeline, name: str, spec: Exact, pairs: list[tuple[Score, Score]], carried: list[Value]
) -> tuple[list[Power], list[Value]]:
    """Return exp of `score - maximum` for each pair `(score, maximum)`, after the registers of `CUTS`.

    Args:
        m: the module in which to build.
        pipe: the pipeline to which the stages belong.
        name: prefix of the signal names.
        spec: the spec.
        pairs: scores, each not above its maximum unless it is masked, and their maxima.
        carried: further values that pass through the same registers.

    Returns:
        The exponentials, and `carried` after the registers.
    """
    terms = [align(m, f"{name}{i}_align", spec.format, *pair) for i, pair in enumerate(pairs)]
    terms, carried = pipe.cut("align", (terms, carried))
    frames = [difference(m, f"{name}{i}_difference", spec.format, operands) for i, operands in enumerate(terms)]
    frames, carried = pipe.cut("difference", (frames, carried))
    arguments = [fixed_point(m, f"{name}{i}_argument", spec, *frame) for i, frame in enumerate(frames)]
    arguments, carried = pipe.cut("fixed", (arguments, carried))
    halves = [(*scaled_halves(m, f"{name}{i}_half", spec, value), far) for i, (value, far) in enumerate(arguments)]
    halves, carried = pipe.cut("scale", (halves, carried))
    exponents = [(scaled(m, f"{name}{i}_exponent", spec, low, high), far) for i, (low, high, far) in enumerate(halves)]
    exponents, carried = pipe.cut("exponent", (exponents, carried))
    bits, table = spec.argument_bits, spec.exponential
    points = [
        (segment_of(m, f"{name}{i}_line", table, exponent[:bits]), exponent[bits:], far)
        for i, (exponent, far) in enumerate(exponents)
    ]
    points, carried = pipe.cut("table", (points, carried))
    for step in BENDS[: spec.bends]:
        points = [(bend(m, f"{name}{i}_line", table, at), whole, far) for i, (at, whole, far) in enumerate(points)]
        points, carried = pipe.cut(step, (points, carried))
    parts = [(along(m, f"{name}{i}_line", table, at), whole, far) for i, (at, whole, far) in enumerate(points)]
    parts, carried = pipe.cut("fraction", (parts, carried))
    return [power(m, f"{name}{i}_power", spec, *part) for i, part in enumerate(parts)], carried


class Terms(NamedTuple):
    """Aligned operands of a subtraction of two floats.

    Attributes:
        large: exponent field and mantissa of the float with the larger magnitude.
        small: aligned significand of the other float, with three more bits below.
        add: set if the signs differ, so that the magnitudes are added.
    """

    large: Value
    small: Value
    add: Value


def align(m: Module, name: str, number: Float, score: Score, highest: Score) -> Terms:
    """Align a score and the maximum."""
    bits = number.mantissa_bits
    # The score is not above the maximum. If the signs differ, sizes are added, and only the exponents must be ordered.
    differ = score.sign != highest.sign
    swap = named(m, f"{name}_swap", Mux(differ, score.size[bits:] > highest.size[bits:], score.sign))
    large = named(m, f"{name}_large", Mux(swap, score.size, highest.size))
    small = named(m, f"{name}_small", Mux(swap, highest.size, score.size))
    distance = named(m, f"{name}_distance", (large[bits:] - small[bits:])[: number.exponent_bits])
    # Two guard bits and a sticky bit suffice to round the difference of two floats.
    aligned = shift(m, name, Cat(Const(0, 2), _significand(number, small)), distance)
    return Terms(large, Cat(aligned.half | aligned.rest, aligned.whole), differ)


def difference(m: Module, name: str, number: Float, terms: Terms) -> tuple[Value, Value]:
    """Return `highest - score`, rounded to the float format, as `(frame, field)`.

    The difference is `frame * 2**(field - bias - mantissa_bits - 3)`, with the exponent field of the larger operand.
    """
    bits = number.mantissa_bits
    minuend = Cat(Const(0, 3), _significand(number, terms.large))
    small = Cat(terms.small ^ (~terms.add).replicate(bits + 4), (~terms.add).replicate(1))
    exact = named(m, f"{name}_exact", (minuend + small + ~terms.add)[: bits + 5])
    # If the leading one is lower than in these three cases, the difference is exact.
    dropped = [
        Mux(exact[bits + 4], step == 4, Mux(exact[bits + 3], step == 3, exact[bits + 2] & (step == 2)))
        for step in (2, 3, 4)
    ]
    added, kept = Const(0), Value.cast(exact)
    for step, chosen in zip((2, 3, 4), dropped, strict=True):
        up = exact[step - 1] & (exact[: step - 1].any() | exact[step])
        added = added | ((chosen & up) << step)
        kept = Mux(chosen, Cat(Const(0, step), exact[step:]), kept)
    return named(m, name, kept + added), terms.large[bits:]


def fixed_point(m: Module, name: str, spec: Exact, frame: Value, field: Value) -> tuple[Value, Value]:
    """Convert a `difference` to `argument_bits` fraction bits; also return whether its exponential is certainly 0.

    A difference below the smallest normal of the format becomes 0.
    """
    number = spec.format
    # Left shift for the largest field; a frame has three extra fraction bits.
    room = (1 << number.exponent_bits) - 1 - number.bias + spec.argument_bits - number.mantissa_bits - 3
    shifted = shift(m, name, frame, ~field, fraction_bits=-room)
    least = spec.argument_bits + number.min_exponent
    lost = shifted.whole < (1 << least) if least >= 0 else Const(0)
    bits = spec.argument_bits + (number.bias + 1).bit_length() - 1
    value = named(m, f"{name}_rounded", shifted.whole + shifted.round_up("nearest"))
    return named(m, f"{name}_fixed", Mux(lost, 0, value[:bits])), named(m, f"{name}_far", value[bits:].any())


def scaled_halves(m: Module, name: str, spec: Exact, argument: Value) -> tuple[Value, Value]:
    """Return the products of the argument of exp with the low and the high bits of log2(e), for `scaled`."""
    factor, bits = spec.log2e
    low = argument * (factor & ((1 << (bits // 2)) - 1)) + rounding_addend(bits, "nearest")
    return named(m, f"{name}_low", low), named(m, f"{name}_high", argument * (factor >> (bits // 2)))


def scaled(m: Module, name: str, spec: Exact, low: Value, high: Value) -> Value:
    """Return the argument of exp times log2(e), with the same fraction bits: the argument of 2**-x."""
    _, bits = spec.log2e
    risen = named(m, f"{name}_risen", (low + (high << (bits // 2)))[: len(high) + bits // 2])
    return cut_rounded(m, name, risen, bits)


def power(m: Module, name: str, spec: Exact, fraction_line: Value, whole: Value, far: Value) -> Power:
    """Return 2**-x from the integer part of x and the line of its fraction."""
    number = spec.format
    significand = round_line(m, f"{name}_significand", spec.exponential, fraction_line)
    one = named(m, f"{name}_one", significand[number.mantissa_bits + 1])  # the fraction is 0, or nearly
    field = Signal(signed(len(whole) + 2), name=f"{name}_exponent")
    m.d.comb += field.eq(number.bias - 1 - whole + one)
    zero = named(m, f"{name}_zero", far | (field < 1))
    kept = Mux(zero, 0, field.as_unsigned()[: number.exponent_bits])
    mantissa = Mux(zero | one, 0, significand[: number.mantissa_bits])
    return Power(significand, whole, zero, named(m, f"{name}_field", kept), named(m, f"{name}_mantissa", mantissa))


def masked(power: Power, on: Value) -> tuple[Value, Value]:
    """Return exponent field and mantissa of an exponential; 0 if it is masked."""
    return Mux(on, power.field, 0), Mux(on, power.mantissa, 0)


def exponentials_of(number: Float, beat: Value, lanes: int) -> list[tuple[Value, Value]]:
    """Return exponent field and mantissa of the exponentials of a beat, where the mantissa is in the low bits."""
    parts = [beat[lane * (number.bits - 1) :][: number.bits - 1] for lane in range(lanes)]
    return [(part[number.mantissa_bits :], part[: number.mantissa_bits]) for part in parts]


def steps(m: Module, name: str, number: Float, field: Value, mantissa: Value) -> Value:
    """Return an exponential, at most 1, as an integer multiple of the format's smallest step."""
    size = _significand(number, Cat(mantissa, field))
    shifted = size << (field - field.any())[: (number.bias - 1).bit_length()]
    return named(m, name, shifted[: number.mantissa_bits + number.bias])


def product(
    m: Module, name: str, number: Float, power: tuple[Value, Value], mantissa: Value, exponent: Value
) -> Number:
    """Return the exact product of an exponential `(field, mantissa)` and a reciprocal, for `to_float`."""
    field, low = power
    # The reciprocal is 1 or in (1/2, 1) with a known leading bit; treat both as in [1, 2).
    factor, one = Cat(mantissa[:-2], Const(1, 1)), mantissa[-1]
    exact = named(m, f"{name}_exact", _significand(number, Cat(low, field)) * factor)
    places = Signal(signed(max(len(exponent), len(field)) + 3), name=f"{name}_places")
    m.d.comb += places.eq(exponent - field - (number.bias + number.mantissa_bits - 1) - one)
    return Number(exact, places, ~field.any())


def to_float(m: Module, name: str, number: Float, exact: Number) -> Value:
    """Round a product that is at most 1 to the float format."""
    rounded = round_product(m, name, exact, number.mantissa_bits + 1)
    field = named(m, f"{name}_field", -rounded.shift)
    code = Cat(rounded.fraction[:-1], field.as_unsigned()[: number.exponent_bits], Const(0))
    return named(m, f"{name}_code", Mux(rounded.zero | (field < 1), 0, code))


def _significand(number: Float, size: Value) -> Value:
    """Return the significand of a float, including the hidden bit."""
    return Cat(size[: number.mantissa_bits], size[number.mantissa_bits :].any())
