"""Results of a unit as AXI4-Stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Value

from softmaxkit.blocks.queue import Queue
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.flow.interface import whole_bytes
from softmaxkit.shell.axi import AxiStream

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions

FEW = 8
"""Beats up to which they wait in a shift register, which shows a word a cycle after it came."""


def output_signature(unit: SoftmaxUnit, options: ShellOptions) -> AxiStream:
    """Return the stream of results, seen from its source: a result a lane, padded to whole bytes."""
    return AxiStream(unit.lanes * whole_bytes(unit.result_bits), options.keep, tag=options.tag_bits)


def keep_queue(unit: SoftmaxUnit, places: int) -> Queue | RowBuffer:
    """Return the queue in which it waits what is kept of the beats inside a unit."""
    if places <= FEW:
        return Queue(unit.lanes, places)
    return RowBuffer(unit.lanes, places, "latches" if unit.storage == "latches" else "flip-flops")


def write_results(
    m: Module, unit: SoftmaxUnit, results: Any, stream: Any, kept: Any = None, tag: Value | None = None
) -> None:
    """Turn results into AXI4-Stream, without a register. Bits above a result are 0.

    Args:
        m: the module to build it in.
        unit: whose lanes it has.
        results: of the unit.
        stream: of `output_signature`, seen from the shell, to drive.
        kept: stream of what is kept of each beat, where there is a `tkeep`.
        tag: of the row, where there is a `tid`.
    """
    lanes, bits = unit.lanes, unit.result_bits
    padded = whole_bytes(bits)
    waiting = Const(1) if kept is None else kept.valid
    m.d.comb += [
        stream.tdata.eq(Cat(Cat(results.p.codes[lane], Const(0, padded - bits)) for lane in range(lanes))),
        stream.tlast.eq(results.p.last),
        stream.tvalid.eq(results.valid & waiting),
        results.ready.eq(stream.tready & waiting),
    ]
    if kept is not None:
        m.d.comb += [
            stream.tkeep.eq(Cat(kept.payload[lane].replicate(padded // 8) for lane in range(lanes))),
            kept.ready.eq(stream.tvalid & stream.tready),
        ]
    if tag is not None:
        m.d.comb += stream.tid.eq(tag)
