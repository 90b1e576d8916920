"""The shell: connects its selected parts to the streams of a unit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.queue import Queue
from softmaxkit.flow.interface import whole_bytes
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell.axi import AxiLite, AxiStream
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.register_map import register_map
from softmaxkit.shell.register_slice import InnerStreams
from softmaxkit.shell.results import output_signature, write_results
from softmaxkit.shell.row_beats import input_signature, read_beats, row_beat, set_of
from softmaxkit.shell.row_guard import RowGuard
from softmaxkit.shell.row_length import LENGTH_PORTS, RowLength
from softmaxkit.shell.rows_inside import RowsInside, max_rows_inside
from softmaxkit.shell.software_side import connect_registers
from softmaxkit.shell.status import ERRORS, STATUS_PORTS, Status, saturated_results, saturated_scores


class Shell(wiring.Component):
    """Connects AXI to the streams of a unit.

    Args:
        unit: to connect; it is not instantiated here.
        options: the parts to build.

    Attributes:
        s_axis, m_axis: AXI4-Streams of scores and results.
        s_axil: AXI4-Lite port, with `axi_lite`; without it, `STATUS_PORTS` and `LENGTH_PORTS` replace the registers.
        s_axis_cfg: stream of constants, for a loadable unit without `axi_lite`: a word and, above it, its address.
        irq: an enabled error flag is set; with `status`.
        scores, results, configuration: streams to and from the unit.
        map: register map, with `axi_lite`; else None.
        outside: members on the AXI side, by name.
        inside: members on the unit's side, by name.

    Raises:
        ValueError: options that conflict with each other or with the unit.
    """

    def __init__(self, unit: SoftmaxUnit, options: ShellOptions) -> None:
        options.check(unit)
        self.unit, self.options = unit, options
        self.map = register_map(unit, options) if options.axi_lite else None
        members = unit.signature.members
        self.inside: dict[str, Any] = {"scores": members["scores"].flip(), "results": members["results"].flip()}
        self.outside: dict[str, Any] = {
            "s_axis": In(input_signature(unit, options)),
            "m_axis": Out(output_signature(unit, options)),
        }
        if unit.registers is not None:
            self.inside["configuration"] = members["configuration"].flip()
            if self.map is None:
                bits = whole_bytes(unit.registers.data_bits) + whole_bytes(unit.registers.address_bits)
                self.outside["s_axis_cfg"] = In(AxiStream(bits))
        if self.map is not None:
            self.outside["s_axil"] = In(AxiLite(self.map.address_bits))
        else:
            self.outside |= (STATUS_PORTS if options.status else {}) | (LENGTH_PORTS if options.row_length else {})
        if options.status:
            self.outside["irq"] = Out(1)
        super().__init__({**self.outside, **self.inside})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        options, unit = self.options, self.unit
        # Values that software reads, and values that it writes, by the names of their ports.
        self.read: dict[str, Any] = {}
        self.written: dict[str, Any] = {}
        beat = row_beat(unit, options.tag_bits)
        beats = stream.Signature(beat).create(path=("beats",))
        read_beats(m, unit, self.s_axis, beats)
        errors: dict[str, Value] = {}
        if options.row_length:
            m.submodules.row_length = length = RowLength(beat)
            beats = _through(m, beats, length)
            errors["row_empty"] = length.empty
            self.written |= {name: getattr(length, name.replace("block_restart", "restart")) for name in LENGTH_PORTS}
        if unit.holds_rows and (options.row_length or options.status):
            m.submodules.row_guard = guard = RowGuard(beat, unit.max_row)
            beats = _through(m, beats, guard)
            errors["row_too_long"] = guard.cut
        hold = Signal()  # no further row may begin
        self.inner = inner = InnerStreams(m, self)
        starts = self._feed(m, beats, hold)
        tag, full, busy = None, Const(0), Const(0)
        if options.tags or options.status or options.axi_lite or inner.apart is not None:
            m.submodules.rows_inside = rows = RowsInside(max_rows_inside(unit, options.slices), options.tag_bits)
            full, busy = rows.full, rows.busy
            m.d.comb += [
                rows.begins.eq(starts),
                rows.ends.eq(self.m_axis.tvalid & self.m_axis.tready & self.m_axis.tlast),
            ]
            if options.tags:
                tag = rows.first
                m.d.comb += rows.tag.eq(beats.p.tag)
        write_results(m, unit, inner.results, self.m_axis, self.kept, tag)
        if options.status:
            self._status(m, beats, errors)
        if self.map is None:
            if options.status:
                self.read["busy"] = busy
            self._ports(m)
        else:
            full = full | connect_registers(m, self, self.map, busy, beats)
        if inner.apart is not None:
            m.d.comb += inner.apart.busy.eq(busy)
            full = full | inner.apart.hold
        m.d.comb += hold.eq(full)
        return m

    def _feed(self, m: Module, beats: Any, hold: Value) -> Value:
        """Pass beats to the unit, and return a value that is high when a row begins.

        A row that must wait is not offered; a beat that the unit has been offered is not withdrawn.
        """
        scores, results, unit = self.inner.scores, self.inner.results, self.unit
        inside, offered, self.kept = Signal(name="row_inside"), Signal(name="row_offered"), None
        goes = inside | offered | ~hold
        taken = scores.valid & scores.ready
        if self.options.keep:
            m.submodules.kept = kept = Queue(unit.lanes, max_rows_inside(unit, self.options.slices))
            m.d.comb += [
                kept.source.valid.eq(taken & beats.p.last),
                kept.source.payload.eq(beats.p.keep),
                kept.sink.ready.eq(results.valid & results.ready & results.p.last),
            ]
            ends = beats.valid & beats.p.last  # without valid, `last` is unknown and must not affect ready
            goes, self.kept = goes & (kept.source.ready | ~ends), kept.sink.payload
        m.d.comb += [
            scores.valid.eq(beats.valid & goes),
            beats.ready.eq(scores.ready & goes),
            Value.cast(scores.p.codes).eq(Value.cast(beats.p.codes)),
            scores.p.mask.eq(beats.p.mask),
            scores.p.last.eq(beats.p.last),
        ]
        if unit.sets > 1:
            m.d.comb += scores.p.set.eq(set_of(beats.p.tag, unit.sets))
        if not self.options.has_slice("scores"):  # a slice tolerates that an offer is withdrawn
            m.d.sync += offered.eq(scores.valid & ~scores.ready)
        with m.If(taken):
            m.d.sync += inside.eq(~beats.p.last)
        self.waiting = beats.valid & ~inside
        return taken & ~inside

    def _status(self, m: Module, beats: Any, errors: dict[str, Value]) -> None:
        """Connect errors, saturated codes and the interrupt."""
        m.submodules.status = status = Status(self.unit.lanes)
        scores, results = self.inner.scores, self.inner.results
        taken, given = (port.valid & port.ready for port in (scores, results))
        m.d.comb += [
            status.raised.eq(Cat(errors.get(name, Const(0, 1)) for name in ERRORS)),
            status.scores.eq(Mux(taken, saturated_scores(m, self.unit, beats.p), 0)),
            status.results.eq(Mux(given, saturated_results(m, self.unit, results.p), 0)),
            self.irq.eq(status.interrupt),
        ]
        self.read |= {name: getattr(status, name) for name in ("errors", "saturated_scores", "saturated_results")}
        self.written |= {
            "errors_clear": status.clear,
            "interrupt_enable": status.enable,
            "saturated_scores_clear": status.clear_scores,
            "saturated_results_clear": status.clear_results,
        }

    def _ports(self, m: Module) -> None:
        """Connect parameters and status to ports of their own, and the constants to their stream."""
        m.d.comb += [getattr(self, name).eq(value) for name, value in self.read.items()]
        m.d.comb += [port.eq(getattr(self, name)) for name, port in self.written.items()]
        registers = self.unit.registers
        if registers is not None:
            source, target = self.s_axis_cfg, self.inner.writes
            m.d.comb += [
                target.p.data.eq(source.tdata),
                target.p.address.eq(source.tdata[whole_bytes(registers.data_bits) :]),
                target.p.last.eq(source.tlast),
                target.valid.eq(source.tvalid),
                source.tready.eq(target.ready),
            ]


def _through(m: Module, beats: Any, part: Any) -> Any:
    """Connect a stream of beats to a part, and return the stream that leaves it."""
    m.d.comb += [
        part.source.payload.eq(beats.payload),
        part.source.valid.eq(beats.valid),
        beats.ready.eq(part.source.ready),
    ]
    return part.sink
