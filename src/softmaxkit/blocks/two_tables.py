"""A large table of a smooth function as the exact difference of two small ones.

Bipartite tables: Das Sarma and Matula, Faithful Bipartite ROM Reciprocal Tables, ARITH 1995.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Cat, Module, Value

from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import named

MAX_GUARD_BITS = 4
"""Fraction bits of the two tables that are tried."""


def two_tables(
    m: Module, name: str, results: Sequence[int], argument: Value, segment_bits: int, part_bits: int = 1
) -> Value:
    """Return `results[argument]`, as the difference of two tables if that can be.

    The first table holds a start for each part of a segment, the second what is taken off on the way through a part,
    which is the same for all parts of a segment.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        results: one for each argument, 0 or more.
        argument: unsigned.
        segment_bits: upper bits of the argument that say in which of equal segments it is, over each of which the
            function is about a line.
        part_bits: bits of the argument that say in which of equal parts of its segment it is.
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
    """Return two tables whose difference, cut by `guard` bits, is every result; None if there are none.

    Bounds of differences are a problem of shortest paths, which has a solution unless there is a cycle of negative
    length (Bellman and Ford).
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
    # What is taken off in a segment counts from its least.
    bases = falls.reshape(1 << segment_bits, -1).min(axis=1)
    starts, falls = starts - np.repeat(bases, 1 << part_bits), falls - np.repeat(bases, 1 << low_bits)
    return (starts.tolist(), falls.tolist()) if starts.min() >= 0 else None
