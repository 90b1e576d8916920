"""The multiplications of the ConSmax unit, between its tables and its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from amaranth.hdl import Const, Module, Value

from softmaxkit.blocks.configuration import Words
from softmaxkit.blocks.float_multiplier import Number, multiply, round_product
from softmaxkit.formats import Float
from softmaxkit.methods.consmax import datapath
from softmaxkit.methods.consmax.spec import ConSmax


class Multiplication(NamedTuple):
    """One multiplication of each lane, with pipeline registers in its middle.

    Attributes:
        cut: name of the registers, see `Pipeline`.
        before: builds the logic before them, from a name, the numbers of a lane and the words of the stage.
        after: builds the logic after them, from a name and the numbers of a lane.
    """

    cut: str
    before: Callable[[str, list[Number], Words], list[Number]]
    after: Callable[[str, list[Number]], list[Number]]


def multiplications(m: Module, spec: ConSmax, apart: Value | None) -> list[Multiplication]:
    """Return the multiplications of a unit, in order.

    Args:
        m: the unit's module.
        spec: the spec.
        apart: whether the halves work apart, where they can; else None.
    """
    multiplied = spec.constant == "multiplied"

    def finished(name: str, product: Number) -> Number:
        if not isinstance(spec.table_format, Float):
            return product
        return round_product(m, f"{name}_rounded", product, spec.significant_bits)

    def constant(which: str, words: Words) -> Number:
        return datapath.number(m, which, spec, words[which], Const(0))

    def multiply_pairs(name: str, n: list[Number], words: Words) -> list[Number]:
        return [multiply(m, f"{name}{i}", n[i], n[i + 1]) for i in range(0, len(n), 2)]

    def round_all(name: str, n: list[Number]) -> list[Number]:
        return [finished(f"{name}{i}", product) for i, product in enumerate(n)]

    def reduce(name: str, n: list[Number], words: Words) -> list[Number]:
        upper, lower = n
        if apart is None:
            return [multiply(m, name, upper, lower)]
        if not multiplied:
            return [multiply(m, name, upper, lower), upper, lower]
        factor = datapath.either(m, f"{name}_factor", apart, constant("lower_multiplier", words), upper)
        return [multiply(m, name, factor, lower), upper]

    def reduced(name: str, n: list[Number]) -> list[Number]:
        joined = finished(name, n[0])
        if apart is None:
            return [joined]
        if multiplied:
            return [joined, n[1]]
        main = datapath.either(m, f"{name}_upper", apart, n[1], joined)
        return [main, n[2]]

    def scale(name: str, n: list[Number], words: Words) -> list[Number]:
        main = n[0] if apart is None else datapath.either(m, f"{name}_main", apart, n[1], n[0])
        return [multiply(m, name, main, constant("multiplier", words)), *n[: len(n) - 1]]

    def scaled(name: str, n: list[Number]) -> list[Number]:
        return [finished(name, n[0]), *n[1:]]

    steps = []
    if spec.tables == "split":
        steps.append(Multiplication("product", multiply_pairs, round_all))
    if spec.bits == 16:
        steps.append(Multiplication("reduction", reduce, reduced))
    if multiplied:
        steps.append(Multiplication("constant", scale, scaled))
    return steps
