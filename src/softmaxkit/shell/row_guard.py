"""Truncates rows that are longer than a unit can buffer, so that only their own results are affected."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.stream import beats


class RowGuard(wiring.Component):
    """Passes rows of up to `max_row` positions unchanged, and the first `max_row` positions of longer ones.

    The rest of a longer row, up to its `last`, is accepted and dropped. Adds no register between the streams.

    Args:
        beat: layout of a beat, see `softmaxkit.shell.row_beats.row_beat`.
        max_row: positions of the longest row.

    Attributes:
        source: stream of rows of any length.
        sink: stream of rows of up to `max_row` positions.
        cut: high for one cycle when the last beat of a truncated row transfers.
    """

    def __init__(self, beat: data.StructLayout, max_row: int) -> None:
        self.lanes, self.max_row = beat["keep"].width, max_row
        super().__init__({"source": In(stream.Signature(beat)), "sink": Out(stream.Signature(beat)), "cut": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        most = beats(self.max_row, self.lanes)
        fitting = (1 << (self.max_row - (most - 1) * self.lanes)) - 1  # lanes of the last beat that fits
        position, dropping = Signal(range(most)), Signal()
        ends = position == most - 1
        spills = ends & ((source.p.keep & ~fitting).any() | ~source.p.last)
        m.d.comb += [
            sink.payload.eq(source.payload),
            sink.valid.eq(source.valid & ~dropping),
            source.ready.eq(sink.ready | dropping),
            self.cut.eq(sink.valid & sink.ready & spills),
        ]
        with m.If(ends):
            m.d.comb += [
                sink.p.last.eq(1),
                sink.p.keep.eq(source.p.keep & fitting),
                sink.p.mask.eq(source.p.mask & fitting),
            ]
        with m.If(source.valid & source.ready):
            m.d.sync += dropping.eq((dropping | ends) & ~source.p.last)
        with m.If(sink.valid & sink.ready):
            if most > 1:
                m.d.sync += position.eq((position + 1) & (~sink.p.last).replicate(len(position)))
        return m
