"""Look-up tables of timing and energy, with linear interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from softmaxkit.formats import Array


class Table(NamedTuple):
    """A look-up table over slew in ns and load in pF; for setup and hold times, over the slews of data and clock.

    Attributes:
        slews: float64, (s,), ascending.
        loads: float64, (l,), ascending.
        values: float64, (s, l).
    """

    slews: Array
    loads: Array
    values: Array

    def combined(self, other: Table, how: Callable[[Array, Array], Array]) -> Table:
        """Combine two tables, on the grid of this one."""
        if np.array_equal(self.slews, other.slews) and np.array_equal(self.loads, other.loads):
            return self._replace(values=how(self.values, other.values))
        return self._replace(values=how(self.values, other.at(self.slews[:, None], self.loads[None, :])))

    def at(self, slew: Array, load: Array) -> Array:
        """Return values at slews and loads, which broadcast: linear between the points and beyond them."""
        below, part = _place(self.slews, slew)
        left, side = _place(self.loads, load)
        above, right = np.minimum(below + 1, len(self.slews) - 1), np.minimum(left + 1, len(self.loads) - 1)
        grid = self.values
        low = grid[below, left] * (1 - side) + grid[below, right] * side
        high = grid[above, left] * (1 - side) + grid[above, right] * side
        values: Array = low * (1 - part) + high * part
        return values


def _place(axis: Array, at: Array) -> tuple[Array, Array]:
    """Return the interval of an axis that a point is in, and its position in it from 0 to 1."""
    if len(axis) == 1:
        return np.zeros(np.shape(at), np.int64), np.zeros(np.shape(at))
    below = np.minimum(np.maximum(axis.searchsorted(at, side="right") - 1, 0), len(axis) - 2)  # faster than `np.clip`
    return below, (at - axis[below]) / (axis[below + 1] - axis[below])
