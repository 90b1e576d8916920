"""Leading-one detector and normaliser."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Value

from softmaxkit.blocks.pipeline import named


def leading_one(m: Module, name: str, value: Value, least: int = 0) -> tuple[Value, Value]:
    """Find the highest set bit by binary search.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        value: unsigned.
        least: the lowest position that the leading one of a non-zero value can have.

    Returns:
        `(position, normalised)`: position of the highest set bit, and `value` shifted left, in its own width, until
        that bit is the top bit. Both are 0 if `value` is 0.
    """
    bits = max((len(value) - 1).bit_length(), 1)
    # Where padding to a power of two adds no step, the position is simply the complement of the number of zeros.
    padded = (len(value) - 1 - least).bit_length() == ((1 << bits) - 1 - least).bit_length()
    width = 1 << bits if padded else len(value)
    steps = [1 << place for place in reversed(range((width - 1 - least).bit_length()))]
    current, missing = Cat(value, Const(0, width - len(value))), []
    for step in steps:
        empty = named(m, f"{name}_empty_{step}", ~current[-step:].any())
        current = named(m, f"{name}_over_{step}", Mux(empty, (current << step)[:width], current))
        missing.append(empty)
    zeros = Cat(*reversed(missing), Const(0, bits - len(missing)))
    position = ~zeros if width == 1 << bits else width - 1 - zeros
    if len(missing) < bits or width < 1 << bits:
        # `zeros` exceeds the width only for the value 0.
        position = Mux(value.any(), position[:bits], 0)
    return named(m, f"{name}_position", position[:bits]), current[-len(value) :]
