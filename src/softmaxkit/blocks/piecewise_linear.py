"""Look-up tables and linear interpolation in hardware, matching `softmaxkit.tables.PiecewiseLinear`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Value, signed, unsigned

from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import cut_rounded, rounding_addend, shift_right
from softmaxkit.rounding import Rounding
from softmaxkit.tables import GUARD_BITS, PiecewiseLinear

MAX_SEGMENTS = 1024
"""Segments of the largest table that is built from gates."""


def check_segments(*counts: int) -> None:
    """Reject tables that are too large to build from gates.

    Raises:
        ValueError: a table has more than `MAX_SEGMENTS` segments.
    """
    for segments in counts:
        if segments > MAX_SEGMENTS:
            raise ValueError(f"a unit's tables have at most {MAX_SEGMENTS} segments, not {segments}")


def lookup(m: Module, name: str, entries: Sequence[int] | Sequence[Value], index: Value) -> Value:
    """Return `entries[index]`; entries that are constants share the narrowest shape that represents them all."""
    constant = all(isinstance(entry, int) for entry in entries)
    if constant:
        shape = shape_of(entries)
        entries = [Const(entry, shape) for entry in entries]
    if len(entries) == 1:
        return Value.cast(entries[0])
    if constant and len(entries) == 1 << len(index):
        # Yosys infers a ROM and would move an index register to its wider output; inverting the index prevents that.
        entries, index = entries[::-1], ~index
    return named(m, name, Array(entries)[index])


def shape_of(values: Sequence[int]) -> Shape:
    """Return the narrowest shape that represents all of the integers."""
    low, high = min(values), max(values)
    bits = max((~value if value < 0 else value).bit_length() for value in (low, high))
    return signed(bits + 1) if low < 0 else unsigned(max(bits, 1))


class Points(NamedTuple):
    """An argument's segment: its start value, its slope, and the offset of the argument within it.

    A table without interpolation uses `start` only. `curves` are the magnitudes of the higher-order coefficients that
    `bend` has yet to fold into the slope.
    """

    start: Value
    slope: Value
    rest: Value
    curves: tuple[Value, ...] = ()


def line(m: Module, name: str, table: PiecewiseLinear, argument: Value, rounding: Rounding = "nearest") -> Value:
    """Interpolate without the final rounding, which is `round_line`: a register can be placed between the two.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        table: of a function that is positive everywhere.
        argument: unsigned, `table.input_bits` wide.
        rounding: must be that of `round_line`.
    """
    points = segment_of(m, name, table, argument, rounding)
    for _ in table.curves:
        points = bend(m, name, table, points)
    return along(m, name, table, points, rounding)


def segment_of(m: Module, name: str, table: PiecewiseLinear, argument: Value, rounding: Rounding = "nearest") -> Points:
    """Look up the segment of an argument: the first step of `line`, with the same arguments."""
    if table.rest_bits == 0:
        return Points(lookup(m, name, table.results(rounding), argument), Const(0, 0), Const(0, 0))
    segment, rest = argument[table.rest_bits :], argument[: table.rest_bits]
    start = lookup(m, f"{name}_start", _starts(table, rounding), segment)
    slopes = [-slope for slope in table.slopes] if _falls(table) else table.slopes
    curves = [
        lookup(m, f"{name}_curve{index}", [abs(coefficient) for coefficient in curve], segment)
        for index, curve in enumerate(table.curves)
    ]
    return Points(start, lookup(m, f"{name}_slope", slopes, segment), rest, tuple(curves))


def bend(m: Module, name: str, table: PiecewiseLinear, points: Points) -> Points:
    """Fold the highest-order coefficient into the next one down: a step of Horner's rule, for a falling table."""
    *curves, highest = points.curves
    place = len(curves)
    below = curves.pop() if curves else points.slope
    taken = shift_right(m, f"{name}_bend{place}", highest * points.rest, 0, fraction_bits=table.rest_bits)
    left = named(m, f"{name}_bent{place}", (below - taken)[: len(below)])
    return points._replace(curves=(*curves, left)) if place else points._replace(slope=left, curves=())


def along(m: Module, name: str, table: PiecewiseLinear, points: Points, rounding: Rounding = "nearest") -> Value:
    """Interpolate within a segment: the last step of `line`."""
    if table.rest_bits == 0:
        return points.start
    low = Const(rounding_addend(table.rest_bits + GUARD_BITS, rounding), table.rest_bits)
    start, run = Cat(low, points.start), points.slope * points.rest
    starts = _starts(table, rounding)
    most = max(*starts, *(start + slope for start, slope in zip(starts, table.slopes, strict=True)))
    return named(m, name, ((start - run) if _falls(table) else (start + run))[: most.bit_length() + table.rest_bits])


def _starts(table: PiecewiseLinear, rounding: Rounding) -> list[int]:
    """Return the start values of all segments with the rounding constant added."""
    addend = rounding_addend(table.rest_bits + GUARD_BITS, rounding) >> table.rest_bits
    return [offset + addend for offset in table.offsets]


def _falls(table: PiecewiseLinear) -> bool:
    return max(table.slopes) <= 0


def round_line(m: Module, name: str, table: PiecewiseLinear, value: Value, rounding: Rounding = "nearest") -> Value:
    """Round the output of `line` to the table's result."""
    if table.rest_bits == 0:
        return value
    if not table.least:
        return cut_rounded(m, name, value, table.rest_bits + GUARD_BITS, rounding)
    rounded = cut_rounded(m, f"{name}_rounded", value, table.rest_bits + GUARD_BITS, rounding)
    return named(m, name, Mux(rounded < table.least, table.least, rounded))
