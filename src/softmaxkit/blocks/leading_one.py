"""Leading-one detector and normaliser."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Value

from softmaxkit.blocks.pipeline import named


def leading_one(m: Module, name: str, value: Value, least: int = 0) -> tuple[Value, Value]:
    """Find the highest set bit by binary search.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        value: unsigned.
        least: the lowest position that the leading one of a non-zero value can have.

    Returns:
        `(position, normalised)`: position of the highest set bit, and `value` shifted left, at its own width, until
        that bit is on top. Both are 0 for the value 0.
    """
    width = len(value)
    steps = [1 << place for place in reversed(range((width - 1 - least).bit_length()))]
    current, missing = value, []
    for step in steps:
        empty = named(m, f"{name}_empty_{step}", ~current[-step:].any())
        current = named(m, f"{name}_over_{step}", Mux(empty, (current << step)[:width], current))
        missing.append(empty)
    zeros = sum((empty << place for place, empty in enumerate(reversed(missing))), Const(0, 1))
    bits = max((width - 1).bit_length(), 1)
    # `zeros` exceeds the width only for the value 0.
    position = named(m, f"{name}_position", Mux(value.any(), (width - 1 - zeros)[:bits], 0))
    return position, current
