"""Conversion of a unit's results to AXI4-Stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Signal, Value

from softmaxkit.flow.interface import whole_bytes
from softmaxkit.shell.axi import AxiStream

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions


def output_signature(unit: SoftmaxUnit, options: ShellOptions) -> AxiStream:
    """Return the stream of results, seen from its source: one result per lane, padded to whole bytes."""
    return AxiStream(unit.lanes * whole_bytes(unit.result_bits), options.keep, tag=options.tag_bits)


def write_results(
    m: Module, unit: SoftmaxUnit, results: Any, stream: Any, kept: Value | None = None, tag: Value | None = None
) -> None:
    """Convert results to AXI4-Stream combinationally. Padding bits above a result are 0.

    Args:
        m: module to add the logic to.
        unit: source of the results.
        results: stream of results.
        stream: stream to drive, of `output_signature`, seen from the shell.
        kept: with `tkeep`, one bit per lane for the row's last beat; in other beats all lanes are kept.
        tag: with `tid`, tag of the row.
    """
    lanes, bits = unit.lanes, unit.result_bits
    padded = whole_bytes(bits)
    m.d.comb += [
        stream.tdata.eq(Cat(Cat(results.p.codes[lane], Const(0, padded - bits)) for lane in range(lanes))),
        stream.tlast.eq(results.p.last),
        stream.tvalid.eq(results.valid),
        results.ready.eq(stream.tready),
    ]
    if kept is not None:
        keep = Signal(lanes)  # Amaranth writes an expression again for every bit that is taken from it
        m.d.comb += keep.eq(kept | ~results.p.last.replicate(lanes))
        m.d.comb += stream.tkeep.eq(Cat(keep[lane].replicate(padded // 8) for lane in range(lanes)))
    if tag is not None:
        m.d.comb += stream.tid.eq(tag)
