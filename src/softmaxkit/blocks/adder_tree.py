"""Reduction trees across the lanes of a beat: sum and maximum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Module, Mux, Value

from softmaxkit.blocks.pipeline import named


def adder_tree(m: Module, name: str, values: Sequence[Value]) -> Value:
    """Return the exact sum of several values; each level of the tree widens it by one bit."""
    return _tree(m, name, values, lambda first, second: first + second)


def maximum_tree(m: Module, name: str, values: Sequence[Value]) -> Value:
    """Return the largest of several values of the same shape, signed or unsigned."""
    return _tree(m, name, values, maximum)


def maximum(first: Value, second: Value) -> Value:
    """Return the larger of two values of the same shape."""
    return Mux(first > second, first, second)


def _tree(m: Module, name: str, values: Sequence[Value], join: Callable[[Value, Value], Value]) -> Value:
    level = 0
    while len(values) > 1:
        pairs = [join(first, second) for first, second in zip(values[::2], values[1::2], strict=False)]
        joined = [named(m, f"{name}_{level}_{index}", pair) for index, pair in enumerate(pairs)]
        values = [*joined, *values[len(values) & ~1 :]]
        level += 1
    return values[0]
