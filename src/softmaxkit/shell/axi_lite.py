"""The AXI4-Lite protocol: converts its five channels to one stream of writes and one of reads."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.shell.axi import OKAY, SLVERR, AxiLite


class AxiLiteSubordinate(wiring.Component):
    """An AXI4-Lite subordinate that handles one write and one read at a time, independently of each other.

    Address and data of a write may arrive in either order. A write with only some of its four byte strobes set has no
    effect and is answered with SLVERR; one with no strobe set has no effect and is answered with OKAY. The lowest two
    address bits are ignored.

    Args:
        address_bits: width of byte addresses.

    Attributes:
        bus: AXI4-Lite port.
        write: stream of writes: word address and data.
        write_error: there is no writable register at that address; sampled when `write` transfers.
        read: stream of word addresses to read.
        read_data, read_error: the word read, or that there is none, in the cycle after `read` transferred.
    """

    def __init__(self, address_bits: int) -> None:
        self.address_bits = address_bits
        words = address_bits - 2
        super().__init__(
            {
                "bus": In(AxiLite(address_bits)),
                "write": Out(stream.Signature(data.StructLayout({"address": words, "data": 32}))),
                "write_error": In(1),
                "read": Out(stream.Signature(words)),
                "read_data": In(32),
                "read_error": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        self._writes(m)
        self._reads(m)
        return m

    def _writes(self, m: Module) -> None:
        bus, write = self.bus, self.write
        addressed, filled = Signal(), Signal()
        address, word, strobe = Signal(self.address_bits - 2), Signal(32), Signal(4)
        complete = addressed & filled & ~bus.bvalid
        whole = strobe.all()
        done = complete & (~whole | write.ready)
        m.d.comb += [
            bus.awready.eq(~addressed),
            bus.wready.eq(~filled),
            write.valid.eq(complete & whole),
            write.p.address.eq(address),
            write.p.data.eq(word),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [addressed.eq(1), address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [filled.eq(1), word.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(done):
            wrong = Mux(whole, self.write_error, strobe.any())
            m.d.sync += [addressed.eq(0), filled.eq(0), bus.bvalid.eq(1), bus.bresp.eq(Mux(wrong, SLVERR, OKAY))]

    def _reads(self, m: Module) -> None:
        bus, read = self.bus, self.read
        addressed, coming = Signal(), Signal()
        address = Signal(self.address_bits - 2)
        m.d.comb += [
            bus.arready.eq(~addressed & ~coming & ~bus.rvalid),
            read.valid.eq(addressed),
            read.payload.eq(address),
        ]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [addressed.eq(1), address.eq(bus.araddr[2:])]
        with m.If(read.valid & read.ready):
            m.d.sync += addressed.eq(0)
        m.d.sync += coming.eq(read.valid & read.ready)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(coming):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rdata.eq(self.read_data),
                bus.rresp.eq(Mux(self.read_error, SLVERR, OKAY)),
            ]
