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


def falling(m: Module, name: str, results: Sequence[int], argument: Value, segment_bits: int) -> Value:
    """Return `results[argument]` of results that fall as the argument rises.

    The first table holds a start for each half of a segment, the second what is taken off on the way through a segment.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        results: one for each argument, 0 or more.
        argument: unsigned.
        segment_bits: upper bits of the argument that say in which of equal segments it is, over each of which the
            function is about a line.
    """
    low_bits = len(argument) - segment_bits - 1
    for guard in range(2, MAX_GUARD_BITS + 1) if low_bits > 0 else ():
        tables = _difference(results, segment_bits, low_bits, guard)
        if tables is not None:
            starts, falls = tables
            start = lookup(m, f"{name}_start", starts, argument[low_bits:])
            fall = lookup(m, f"{name}_fall", falls, Cat(argument[:low_bits], argument[low_bits + 1 :]))
            return named(m, name, (start - fall)[guard : guard + max(results).bit_length()])
    return lookup(m, name, results, argument)


def _difference(
    results: Sequence[int], segment_bits: int, low_bits: int, guard: int
) -> tuple[list[int], list[int]] | None:
    """Return two tables whose difference, cut by `guard` bits, is every result; None if there are none.

    Bounds of differences are a problem of shortest paths, which has a solution unless there is a cycle of negative
    length (Bellman and Ford).
    """
    arguments, least = np.arange(len(results)), np.asarray(results, np.int64) << guard
    most = least + (1 << guard) - 1
    high = arguments >> low_bits
    low = (high >> 1 << low_bits) | (arguments & ((1 << low_bits) - 1))
    starts, falls = np.zeros(2 << segment_bits, np.int64), np.zeros(1 << segment_bits + low_bits, np.int64)
    for _ in range(len(starts) + len(falls)):
        before = starts.copy(), falls.copy()
        np.minimum.at(starts, high, falls[low] + most)
        np.minimum.at(falls, low, starts[high] - least)
        if (before[0] == starts).all() and (before[1] == falls).all():
            break
    else:
        return None
    # A segment's falls count from its least one.
    bases = falls.reshape(1 << segment_bits, -1).min(axis=1)
    starts, falls = starts - np.repeat(bases, 2), falls - np.repeat(bases, 1 << low_bits)
    return (starts.tolist(), falls.tolist()) if starts.min() >= 0 else None
