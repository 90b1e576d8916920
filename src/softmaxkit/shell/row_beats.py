"""Beats of rows between the parts of a shell, and their conversion from AXI4-Stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import data

from softmaxkit.flow.interface import whole_bytes
from softmaxkit.shell.axi import AxiStream

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions

FIELDS = ("tdata", "tkeep", "tuser", "tlast", "tid")
"""Pins of an AXI4-Stream beat, in the order of their bits in a vector file, from bit 0 up."""


def row_beat(unit: SoftmaxUnit, tag_bits: int) -> data.StructLayout:
    """Return the payload of a beat: `codes`, `keep` (1: part of the row), `mask` (1: attend), `last` and `tag`.

    Lanes are in order from lane 0 up. Without tags, `tag` has no bits.
    """
    lanes = unit.lanes
    return data.StructLayout(
        {"codes": data.ArrayLayout(unit.code_shape, lanes), "mask": lanes, "keep": lanes, "last": 1, "tag": tag_bits}
    )


def input_signature(unit: SoftmaxUnit, options: ShellOptions) -> AxiStream:
    """Return the stream of scores, seen from its source: one score per lane, padded to whole bytes."""
    numbered = options.row_length
    return AxiStream(
        unit.lanes * whole_bytes(unit.code_shape.width),
        options.keep,
        0 if numbered else unit.lanes,
        not numbered,
        options.tag_bits,
    )


def read_beats(m: Module, unit: SoftmaxUnit, stream: Any, beats: Any) -> None:
    """Convert AXI4-Stream to beats of rows combinationally.

    A position is kept if all of its bytes are; without `tkeep`, if it is attended. A kept position is attended if its
    bit of `tuser` is 1, or if there is no `tuser`.

    Args:
        m: module to add the logic to.
        unit: destination of the scores.
        stream: of `input_signature`, seen from the shell.
        beats: stream of `row_beat` to drive.
    """
    lanes, bits = unit.lanes, unit.code_shape.width
    padded = whole_bytes(bits)
    attended: Value = getattr(stream, "tuser", Const((1 << lanes) - 1, lanes))
    kept = attended
    if hasattr(stream, "tkeep"):
        step = padded // 8
        kept = Cat(stream.tkeep[lane * step : (lane + 1) * step].all() for lane in range(lanes))
    m.d.comb += [
        Value.cast(beats.p.codes).eq(Cat(stream.tdata[lane * padded : lane * padded + bits] for lane in range(lanes))),
        beats.p.keep.eq(kept),
        beats.p.mask.eq(kept & attended),
        beats.p.last.eq(getattr(stream, "tlast", 0)),
        beats.p.tag.eq(getattr(stream, "tid", 0)),
        beats.valid.eq(stream.tvalid),
        stream.tready.eq(beats.ready),
    ]


def set_of(tag: Value, sets: int) -> Value:
    """Return the set number of a tag; tags beyond the last set select set 0."""
    return Mux(tag < sets, tag, 0)
