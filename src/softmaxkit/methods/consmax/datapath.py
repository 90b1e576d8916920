"""Datapath of the ConSmax unit: table entries as numbers, register contents, and the conversion to fixed point.

Each number is `fraction * 2**-shift`. All powers of two that are fixed for a head (those of the table entries, of C and
of the output scale) are combined in one *offset*, so that the shift of the last product is that of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed, unsigned

from softmaxkit.blocks.configuration import Register, RegisterMap, Words
from softmaxkit.blocks.float_multiplier import Number
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import named, resized
from softmaxkit.blocks.shifter import shift_right
from softmaxkit.formats import Float
from softmaxkit.methods.consmax.constants import ConSmaxConstants
from softmaxkit.methods.consmax.spec import ConSmax

FLOAT_OFFSET = signed(12)
"""Shape of the offset register with float tables."""


OFFSET_MEANING = "right shift of the product: a number of the unit, less exponent and output_fraction_bits"
"""What the word of the offset register is; the number follows from any set of constants and its writes."""


def table_names(spec: ConSmax) -> list[str]:
    """Return the names of a spec's tables, those of the upper byte first."""
    if spec.tables != "split":
        return ["high" if spec.tables == "whole" else "low"]
    return ["high", "low"] + (["lower_high", "lower_low"] if spec.bits == 16 else [])


def entry_bits(spec: ConSmax) -> int:
    """Return the width of a table entry in bits; the sign of a float, always 0, is not stored."""
    if spec.tables == "whole":
        return spec.output_bits
    return spec.table_format.bits - isinstance(spec.table_format, Float)


def register_map(spec: ConSmax, apart: bool, sets: int = 1) -> RegisterMap:
    """Return the register map of a loadable unit; if its halves can work apart, `sets` must be 1."""
    words = unsigned(entry_bits(spec))
    entries = 256 if spec.tables == "whole" else 16
    meaning = "result of each score code" if spec.tables == "whole" else "entries, by a nibble of the score code"
    registers = [Register(name, words, entries, meaning) for name in table_names(spec)]
    if spec.tables == "whole":
        return RegisterMap(registers, sets)
    offset = FLOAT_OFFSET if isinstance(spec.table_format, Float) else unsigned(_largest_offset(spec).bit_length())
    for prefix in ["", "lower_"] if apart else [""]:
        if spec.constant == "multiplied":
            registers.append(Register(f"{prefix}multiplier", words, 1, "the factor C"))
        registers += [
            Register(f"{prefix}offset", offset, 1, OFFSET_MEANING),
            Register(f"{prefix}limit", unsigned(spec.output_bits), 1, "largest result"),
        ]
    if apart:
        registers.append(Register("apart", unsigned(1), 1, "1: the halves of a score are scores of their own"))
    return RegisterMap(registers, sets)


def loaded(spec: ConSmax, constants: ConSmaxConstants, unit: ConSmax) -> dict[str, int | Sequence[int]]:
    """Return the register values for the constants of one head.

    Args:
        spec: the spec of the constants; that of a half for halves that work apart.
        constants: the constants.
        unit: the spec of the unit.

    Raises:
        ValueError: fixed-point tables are too steep for their format.
    """
    words: dict[str, int | Sequence[int]] = {name: getattr(constants, name) for name in table_names(spec)}
    if spec.tables == "whole":
        return words
    offset, number = _offset(spec, constants), spec.table_format
    if isinstance(number, Float):
        # The unit uses ~F as the shift of an exponent field F, which differs from bias - 1 - F by a constant.
        factors = len(words) + (spec.constant == "multiplied")
        offset += factors * (number.bias - (1 << number.exponent_bits))
    else:
        offset = min(offset + _headroom(unit), _largest_offset(unit))
        offset = max(offset, 0) if spec.tables == "shift" else offset
        if offset < 0:
            raise ValueError(
                f"these constants cannot be loaded: at a score scale of {constants.real_scale:.3g}, a table has 1 as "
                f"at most one step of {number}; choose a smaller scale or a wider table_format, or bake them in"
            )
    if spec.constant == "multiplied":
        words["multiplier"] = constants.multiplier
    return words | {"offset": offset, "limit": constants.limit}


def baked(spec: ConSmax, constants: ConSmaxConstants) -> Words:
    """Return the tables and registers of one head as integers."""
    tables: dict[str, Sequence[int]] = {name: getattr(constants, name) for name in table_names(spec)}
    return tables | {
        "multiplier": [constants.multiplier],
        "offset": [_offset(spec, constants)],
        "limit": [constants.limit],
    }


def number(
    m: Module, name: str, spec: ConSmax, entries: Sequence[int] | Sequence[Value], index: Value, offset: int | Value = 0
) -> Number:
    """Look up a table entry as a number, with `offset` added to its shift (see `base` for baked fixed-point tables)."""
    form = spec.table_format
    if not isinstance(form, Float):
        shift = Const(0) if isinstance(offset, int) else offset
        return Number(resized(lookup(m, name, entries, index), form.bits), shift, Const(0))
    if isinstance(entries[0], Value):
        word = lookup(m, name, entries, index)
        field = word[form.mantissa_bits :]
        shift = named(m, f"{name}_shift", ~field + offset)
        return Number(Cat(word[: form.mantissa_bits], Const(1)), shift, ~field.any())
    fields = [int(entry) >> form.mantissa_bits for entry in entries]
    mantissas = [int(entry) & ((1 << form.mantissa_bits) - 1) for entry in entries]
    zeros = [int(field == 0) for field in fields]
    # The shift of a zero does not matter; using one that occurs anyway keeps the table narrow.
    least = max(fields)
    shifts = [form.bias - 1 - (field or least) + int(offset) for field in fields]
    mantissa = resized(lookup(m, f"{name}_mantissa", mantissas, index), form.mantissa_bits)
    zero = lookup(m, f"{name}_zero", zeros, index) if any(zeros) else Const(0)
    return Number(Cat(mantissa, Const(1)), lookup(m, f"{name}_shift", shifts, index), zero)


def base(spec: ConSmax, words: Words) -> int:
    """Return the constant that is added to the shift of the last product, known at build time."""
    if isinstance(spec.table_format, Float):
        return 0
    offset = words["offset"][0]
    if isinstance(offset, int):
        return offset
    return -_headroom(spec)


def to_output(m: Module, name: str, spec: ConSmax, value: Number, limit: int | Value, base: int) -> Value:
    """Round a number to the output format and saturate it at the limit."""
    bits = spec.output_bits
    if not isinstance(spec.table_format, Float):
        rounded = shift_right(
            m, f"{name}_whole", value.fraction, value.shift, fraction_bits=len(value.fraction) - bits + base
        )
        return named(m, name, Mux(value.zero, 0, Mux(rounded > limit, limit, rounded)[:bits]))
    large, small = value.shift < 0, value.shift > bits
    amount = named(m, f"{name}_amount", value.shift.as_unsigned()[: bits.bit_length()])
    rounded = shift_right(m, f"{name}_whole", value.fraction, amount, fraction_bits=len(value.fraction) - bits)
    within = Mux(large | (rounded > limit), limit, rounded)[:bits]
    return named(m, name, Mux(value.zero | small, 0, within))


def widen(value: Number, bits: int) -> Number:
    """Return the number with its fraction extended to `bits` bits."""
    fraction = Cat(Const(0, bits - len(value.fraction)), value.fraction)
    return value._replace(fraction=fraction)


def either(m: Module, name: str, condition: Value, first: Number, second: Number) -> Number:
    """Return the first number if the condition is true, else the second."""
    bits = max(len(first.fraction), len(second.fraction))
    pair = zip(widen(first, bits), widen(second, bits), strict=True)
    return Number(
        *(named(m, f"{name}_{key}", Mux(condition, *both)) for key, both in zip(Number._fields, pair, strict=True))
    )


def _offset(spec: ConSmax, constants: ConSmaxConstants) -> int:
    """Return the right shift from the last product, as a fraction, to the full scale of the output."""
    # With tables="shift", 7 - h is added for the high nibble h.
    places: int = constants.exponent + constants.output_fraction_bits + 7 * (spec.tables == "shift")
    return spec.output_bits - places


def _headroom(spec: ConSmax) -> int:
    """Return the headroom added to the offset of fixed-point tables, so that negative offsets can be loaded.

    Below -headroom, all results saturate with tables="shift"; with "split", a table's entry of 1 is one step or less.
    """
    return 17 if spec.tables == "shift" else spec.table_format.bits + spec.bits - 8


def _largest_offset(spec: ConSmax) -> int:
    """Return the smallest loaded offset of fixed-point tables at which every result is 0."""
    return spec.output_bits + 2 + _headroom(spec)
