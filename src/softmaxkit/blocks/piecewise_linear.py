"""Look-up tables of constants, and lines between their points: the hardware of `softmaxkit.tables.PiecewiseLinear`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Array, Const, Module, Shape, Value, signed, unsigned

from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import shift_right
from softmaxkit.formats import Rounding
from softmaxkit.tables import GUARD_BITS, PiecewiseLinear

MAX_SEGMENTS = 1024
"""Entries of the largest table that is built of gates."""

WHOLE_BITS = 10
"""Bits of the longest argument for which a table of all results takes fewer gates than lines and their multiplier."""


def check_segments(*counts: int) -> None:
    """Refuse tables that are too large to be built of gates.

    Raises:
        ValueError: one has more than `MAX_SEGMENTS` segments.
    """
    for segments in counts:
        if segments > MAX_SEGMENTS:
            raise ValueError(f"a unit's tables have at most {MAX_SEGMENTS} segments, not {segments}")


def lookup(m: Module, name: str, entries: Sequence[int] | Sequence[Value], index: Value) -> Value:
    """Return `entries[index]`, the entries constant or held elsewhere; the shape is the narrowest that holds them."""
    if all(isinstance(entry, int) for entry in entries):
        shape = shape_of(entries)
        entries = [Const(entry, shape) for entry in entries]
    if len(entries) == 1:
        return Value.cast(entries[0])
    return named(m, name, Array(entries)[index])


def shape_of(values: Sequence[int]) -> Shape:
    """Return the narrowest shape that holds all of some integers."""
    low, high = min(values), max(values)
    bits = max((~each if each < 0 else each).bit_length() for each in (low, high))
    return signed(bits + 1) if low < 0 else unsigned(max(bits, 1))


def is_whole(table: PiecewiseLinear) -> bool:
    """Return whether a table is built as that of all its results, with no lines between them."""
    return table.rest_bits == 0 or table.input_bits <= WHOLE_BITS


def line(m: Module, name: str, table: PiecewiseLinear, argument: Value, rounding: Rounding = "nearest") -> Value:
    """Return a table's value before its rounding, which `round_line` does: a register may stand between the two.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        table: of a function that is positive all over.
        argument: unsigned, `table.input_bits` wide.
        rounding: that of `round_line`.
    """
    if is_whole(table):
        return lookup(m, name, table(np.arange(1 << table.input_bits), rounding).tolist(), argument)
    segment, rest = argument[table.rest_bits :], argument[: table.rest_bits]
    offset = lookup(m, f"{name}_offset", table.offsets, segment)
    falls = max(table.slopes) <= 0
    slope = lookup(m, f"{name}_slope", [-each for each in table.slopes] if falls else table.slopes, segment)
    along = named(m, f"{name}_along", slope * rest)
    start = offset << table.rest_bits
    width = (max(*table.offsets, *(o + s for o, s in zip(table.offsets, table.slopes, strict=True)))).bit_length()
    return named(m, name, ((start - along) if falls else (start + along))[: width + table.rest_bits])


def round_line(m: Module, name: str, table: PiecewiseLinear, value: Value, rounding: Rounding = "nearest") -> Value:
    """Round what `line` gives to the table's result."""
    if is_whole(table):
        return value
    return shift_right(m, name, value, table.rest_bits + GUARD_BITS, rounding)
