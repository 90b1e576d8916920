"""A large table of a smooth function, as the exact difference of two small ones.

Bipartite tables: Das Sarma and Matula, Faithful Bipartite ROM Reciprocal Tables, ARITH 1995.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Cat, Module, Value

from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import named

MAX_GUARD_BITS = 4
"""Most fraction bits that are tried for the two tables."""


def two_tables(
    m: Module, name: str, results: Sequence[int], argument: Value, segment_bits: int, part_bits: int = 1
) -> Value:
    """Return `results[argument]`, as the difference of two tables where such tables exist.

    The first table has a start value for every part of a segment; the second has the decrease within a part, which all
    parts of a segment share.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        results: one for each argument, 0 or more.
        argument: unsigned.
        segment_bits: upper bits of the argument, which select one of equal segments; the function should be nearly
            linear within a segment.
        part_bits: the bits below, which select one of equal parts of the segment.
    """
    low_bits = len(argument) - segment_bits - part_bits
    for guard in range(MAX_GUARD_BITS + 1) if low_bits > 0 else ():
        tables = _difference(results, segment_bits, part_bits, low_bits, guard)
        if tables is not None:
            starts, falls = tables
            start = lookup(m, f"{name}_start", starts, argument[low_bits:])
            fall = lookup(m, f"{name}_fall", falls, Cat(argument[:low_bits], argument[low_bits + part_bits :]))
            return named(m, name, (start - fall)[guard : guard + max(results).bit_length()])
    return lookup(m, name, results, argument)


def _difference(
    results: Sequence[int], segment_bits: int, part_bits: int, low_bits: int, guard: int
) -> tuple[list[int], list[int]] | None:
    """Return two tables whose difference, without its lowest `guard` bits, equals every result; None if none exist.

    Bounds on differences are a shortest-path problem, which has a solution unless there is a cycle of negative length
    (Bellman-Ford).
    """
    arguments, least = np.arange(len(results)), np.asarray(results, np.int64) << guard
    most = least + (1 << guard) - 1
    high = arguments >> low_bits
    low = (high >> part_bits << low_bits) | (arguments & ((1 << low_bits) - 1))
    starts, falls = np.zeros(1 << segment_bits + part_bits, np.int64), np.zeros(1 << segment_bits + low_bits, np.int64)
    for _ in range(len(starts) + len(falls)):
        before = starts.copy(), falls.copy()
        np.minimum.at(starts, high, falls[low] + most)
        np.minimum.at(falls, low, starts[high] - least)
        if (before[0] == starts).all() and (before[1] == falls).all():
            break
    else:
        return None
    # Shift each segment so that its smallest decrease is 0.
    bases = falls.reshape(1 << segment_bits, -1).min(axis=1)
    starts, falls = starts - np.repeat(bases, 1 << part_bits), falls - np.repeat(bases, 1 << low_bits)
    return (starts.tolist(), falls.tolist()) if starts.min() >= 0 else None
