"""Sticky error flags, their interrupt, and counts of saturated scores and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

COUNT_BITS = 32

ERRORS = {
    "row_too_long": "a row was longer than max_row and was truncated",
    "row_empty": "a row had length 0; it took one beat, in which nothing is kept",
}

STATUS_PORTS = {
    "busy": Out(1),
    "errors": Out(len(ERRORS)),
    "errors_clear": In(len(ERRORS)),
    "interrupt_enable": In(len(ERRORS)),
    "saturated_scores": Out(COUNT_BITS),
    "saturated_scores_clear": In(1),
    "saturated_results": Out(COUNT_BITS),
    "saturated_results_clear": In(1),
}
"""Ports of a shell with status but without AXI4-Lite."""


class Status(wiring.Component):
    """Stores error flags and counts saturated codes.

    Args:
        most: most codes that can saturate in a cycle.

    Attributes:
        raised: errors in this cycle, one bit each in the order of `ERRORS`.
        clear: flags to clear; a flag raised in the same cycle stays set.
        enable: errors that raise the interrupt.
        errors: sticky flags.
        interrupt: an enabled flag is set.
        scores, results: number of saturated scores and results in this cycle.
        clear_scores, clear_results: set the count to 0; codes of the previous cycle are not counted.
        saturated_scores, saturated_results: counts, which stay at their maximum.
    """

    def __init__(self, most: int) -> None:
        count = range(most + 1)
        super().__init__(
            {
                "raised": In(len(ERRORS)),
                "clear": In(len(ERRORS)),
                "enable": In(len(ERRORS)),
                "errors": Out(len(ERRORS)),
                "interrupt": Out(1),
                "scores": In(count),
                "results": In(count),
                "clear_scores": In(1),
                "clear_results": In(1),
                "saturated_scores": Out(COUNT_BITS),
                "saturated_results": Out(COUNT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        m.d.sync += self.errors.eq((self.errors & ~self.clear) | self.raised)
        m.d.comb += self.interrupt.eq((self.errors & self.enable).any())
        for kind in ("scores", "results"):
            count, total = getattr(self, f"saturated_{kind}"), Signal(COUNT_BITS + 1, name=f"total_{kind}")
            more = Signal.like(getattr(self, kind), name=f"more_{kind}")  # added a cycle later, for a faster clock
            m.d.sync += more.eq(getattr(self, kind))
            m.d.comb += total.eq(count + more)
            m.d.sync += count.eq(total[:-1] | total[-1].replicate(COUNT_BITS))
            with m.If(getattr(self, f"clear_{kind}")):
                m.d.sync += count.eq(0)
        return m


def score_ends(unit: SoftmaxUnit) -> list[int]:
    """Return the codes, as unsigned numbers, at the ends of the range, where scores saturate."""
    far = np.finfo(np.float32).max * np.asarray([-1.0, 1.0])
    codes = unit.spec.encode(far, unit.spec.examples()[0])
    return [int(code) & ((1 << unit.code_shape.width) - 1) for code in codes]


def saturated_scores(m: Module, unit: SoftmaxUnit, beat: data.View) -> Value:
    """Return the number of attended scores of a beat at an end of the code range."""
    ends, at_end = score_ends(unit), []
    for lane in range(unit.lanes):
        code = beat.codes[lane].as_unsigned()
        at_end.append(beat.mask[lane] & ((code == ends[0]) | (code == ends[1])))
    return adder_tree(m, "saturated_scores", at_end)


def saturated_results(m: Module, unit: SoftmaxUnit, beat: data.View) -> Value:
    """Return the number of results of a beat that are the largest code, where results saturate."""
    return adder_tree(m, "saturated_results", [beat.codes[lane].all() for lane in range(unit.lanes)])
