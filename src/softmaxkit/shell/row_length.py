"""Row lengths and causal masks from parameters instead of `last` and mask bits, which a DMA does not provide."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

LENGTH_BITS = 17
"""Width of a row's length, which is at most 65,536 in any unit."""
OFFSET_BITS = LENGTH_BITS + 1
"""Width of a causal offset, which is signed."""

LENGTH_PORTS = {
    "row_length": In(LENGTH_BITS),
    "causal": In(1),
    "causal_offset": In(signed(OFFSET_BITS)),
    "block_rows": In(LENGTH_BITS),
    "block_restart": In(1),
}
"""Ports of a shell with row lengths but without AXI4-Lite."""


class RowLength(wiring.Component):
    """Divides a stream of beats into rows of a given length, each in whole beats, and masks them.

    Row i of a block, counted from 0, attends to its first `i + causal_offset + 1` positions if `causal` is high, and
    otherwise to all of them. A row samples its parameters when the previous row ends or, after a pause, in the cycle
    before its first beat is offered, so that a waiting beat does not change.

    Args:
        beat: layout of a beat, see `softmaxkit.shell.row_beats.row_beat`; `last` of the source is ignored.

    Attributes:
        source, sink: streams of beats.
        row_length: positions per row. 0 is an error: the row takes one beat, in which nothing is kept.
        causal, causal_offset: enable and signed offset of the causal mask.
        block_rows: rows per block, after which i restarts at 0; 0: it does not restart.
        restart: the next row is the first of a block.
        empty: high for one cycle when the beat of a row of length 0 transfers.
    """

    def __init__(self, beat: data.StructLayout) -> None:
        self.lanes = beat["keep"].width
        super().__init__(
            {
                "source": In(stream.Signature(beat)),
                "sink": Out(stream.Signature(beat)),
                "row_length": In(LENGTH_BITS),
                "causal": In(1),
                "causal_offset": In(signed(OFFSET_BITS)),
                "block_rows": In(LENGTH_BITS),
                "restart": In(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        ready, inside = Signal(), Signal()  # parameters are sampled; a row has begun
        left, allowed, causal = Signal(LENGTH_BITS), Signal(OFFSET_BITS), Signal()  # positions still to come in the row
        taken = sink.valid & sink.ready
        ends = taken & sink.p.last
        row = self._rows(m, ends, load := Signal())
        m.d.comb += [
            load.eq(~ready | ends | (~source.valid & ~inside)),
            sink.payload.eq(source.payload),
            sink.valid.eq(source.valid & ready),
            source.ready.eq(sink.ready & ready),
            sink.p.keep.eq(source.p.keep & self._below(left)),
            sink.p.mask.eq(source.p.mask & self._below(left) & (self._below(allowed) | ~causal.replicate(self.lanes))),
            sink.p.last.eq(left <= self.lanes),
            self.empty.eq(taken & (left == 0)),
        ]
        first = Signal(signed(OFFSET_BITS + 2))
        m.d.comb += first.eq(row + self.causal_offset + 1)
        with m.If(taken):
            m.d.sync += inside.eq(~sink.p.last)
        with m.If(load):
            m.d.sync += [
                ready.eq(1),
                left.eq(self.row_length),
                causal.eq(self.causal),
                allowed.eq(Mux(first < 0, 0, first)),
            ]
        with m.Elif(taken):
            m.d.sync += [left.eq(left - self.lanes), allowed.eq(Mux(allowed < self.lanes, 0, allowed - self.lanes))]
        return m

    def _rows(self, m: Module, ends: Value, load: Value) -> Value:
        """Return the index within its block of the row whose parameters are sampled in this cycle."""
        row, following, restart = Signal(LENGTH_BITS), Signal(LENGTH_BITS), Signal()
        m.d.comb += following.eq(row)
        with m.If(ends):
            m.d.comb += following.eq(row + 1)
            with m.If(row + 1 == self.block_rows):
                m.d.comb += following.eq(0)
        with m.If(self.restart | restart):
            m.d.comb += following.eq(0)
        with m.If(load):
            m.d.sync += [row.eq(following), restart.eq(0)]
        with m.Elif(self.restart):
            m.d.sync += restart.eq(1)
        return following

    def _below(self, count: Value) -> Value:
        """Return one bit per lane, set in the first `count` lanes."""
        return Cat(count > lane for lane in range(self.lanes))
