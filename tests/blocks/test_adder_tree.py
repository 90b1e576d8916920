from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from amaranth.hdl import Module, Value
from bench import simulate

from softmaxkit.blocks.adder_tree import adder_tree, maximum_tree

BITS, MOST = 4, 9


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("tree", "join"), [(adder_tree, np.sum), (maximum_tree, np.max)])
def test_trees(signed: bool, tree: Callable[..., Value], join: Callable[..., np.ndarray]) -> None:
    low, high = (-8, 7) if signed else (0, 15)
    values = np.random.default_rng(0).integers(low, high, (MOST, 120), endpoint=True)
    values[:, 0], values[:, 1] = low, high
    values[:, 2:20] = low
    for lane in range(MOST):  # each lane on its own
        values[lane, 2 + lane], values[lane, 11 + lane] = high, low + 1
    outputs = [(join(values[:count], axis=0), BITS + (count - 1).bit_length()) for count in range(1, MOST + 1)]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        lanes = [value.as_signed() if signed else value for value in inputs]
        return [tree(m, f"tree_{count}", lanes[:count]) for count in range(1, MOST + 1)]

    simulate([(lane, BITS) for lane in values], outputs, build)
