"""AXI4-Stream (AMBA IHI 0051B) and AXI4-Lite (IHI 0022H) as Amaranth signatures, with the standards' port names."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

OKAY, SLVERR = 0b00, 0b10
"""Responses of AXI4-Lite."""


class AxiStream(wiring.Signature):
    """An AXI4-Stream, seen from its source.

    Args:
        bits: width of `tdata`, in whole bytes.
        keep: add `tkeep`, one bit per byte.
        user: width of `tuser`; 0 for none.
        last: add `tlast`.
        tag: width of `tid`; 0 for none.
    """

    def __init__(self, bits: int, keep: bool = False, user: int = 0, last: bool = True, tag: int = 0) -> None:
        optional = {"tkeep": bits // 8 * keep, "tuser": user, "tlast": int(last), "tid": tag}
        super().__init__(
            {
                "tdata": Out(bits),
                **{name: Out(width) for name, width in optional.items() if width},
                "tvalid": Out(1),
                "tready": In(1),
            }
        )


class AxiLite(wiring.Signature):
    """An AXI4-Lite port with 32-bit data, seen from its manager.

    Args:
        address_bits: width of byte addresses.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
