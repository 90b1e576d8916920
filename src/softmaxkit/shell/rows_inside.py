"""The number of rows inside a unit, and their tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.queue import Queue

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit


def max_rows_inside(unit: SoftmaxUnit, slices: int = 0) -> int:
    """Return how many rows a unit holds, with continuous input of whichever length and results that never wait.

    With places for as many, a shell takes rows of every length at the unit's interval.

    Args:
        unit: baked or loadable.
        slices: register slices around it, each of which adds one cycle.
    """
    lengths = (*range(1, unit.max_row + 1, unit.lanes), unit.max_row)  # those in between may be the most
    return max((schedule.last + slices) // schedule.interval + 1 for schedule in map(unit.schedule, lengths))


class RowsInside(wiring.Component):
    """Counts rows from the transfer of their first beat to that of their last result, and stores their tags.

    Args:
        most: most rows that may be inside.
        tag_bits: width of a tag; 0 for none.

    Attributes:
        begins: the first beat of a row enters; only while `full` is low.
        tag: of that row.
        ends: the last result of a row leaves.
        full: no further row may begin.
        busy: a row is inside.
        first: tag of the oldest row, whose results leave next.
    """

    def __init__(self, most: int, tag_bits: int) -> None:
        self.max_rows, self.tag_bits = most, tag_bits
        tags = {"tag": In(tag_bits), "first": Out(tag_bits)} if tag_bits else {}
        super().__init__({"begins": In(1), "ends": In(1), "full": Out(1), "busy": Out(1), **tags})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        if self.tag_bits:
            m.submodules.tags = tags = Queue(self.tag_bits, self.max_rows)
            m.d.comb += [
                tags.source.valid.eq(self.begins),
                tags.source.payload.eq(self.tag),
                tags.sink.ready.eq(self.ends),
                self.first.eq(tags.sink.payload),
                self.full.eq(~tags.source.ready),
                self.busy.eq(tags.sink.valid),
            ]
            return m
        count = Signal(range(self.max_rows + 1))
        m.d.sync += count.eq(count + self.begins - self.ends)
        m.d.comb += [self.full.eq(count == self.max_rows), self.busy.eq(count != 0)]
        return m
