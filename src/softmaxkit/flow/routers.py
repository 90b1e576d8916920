"""The FPGAs that nextpnr supports: families, devices, and the resources that are counted."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """A device: its title, and the options of nextpnr that select it."""

    title: str
    options: tuple[str, ...]


class Router(NamedTuple):
    """How a family is placed and routed.

    Attributes:
        tool: the place-and-route program.
        devices: the devices by name, the smallest first.
        resources: nextpnr's name of each resource that `FAMILIES` counts.
        routed: option that names the file of the routed design.
        packer: program that packs the routed design into a bitstream, and its first arguments.
        pins: location constraints of the three pins, for a router that does not choose them.
    """

    tool: str
    devices: dict[str, Device]
    resources: dict[str, str]
    routed: str
    packer: tuple[str, ...]
    pins: str = ""


def _ecp5(size: str) -> Device:
    options = (f"--{size}k", "--package", "CABGA381", "--speed", "6", "--lpf-allow-unconstrained")
    return Device(f"LFE5U-{size}F, CABGA381, speed grade 6", options)


ROUTERS = {
    "ice40": Router(
        "nextpnr-ice40",
        {"up5k": Device("iCE40UP5K, SG48", ("--up5k", "--package", "sg48"))},
        {"luts": "ICESTORM_LC", "registers": "ICESTORM_LC", "dsps": "ICESTORM_DSP", "block_rams": "ICESTORM_RAM"},
        "--asc",
        ("icepack",),
    ),
    "ecp5": Router(
        "nextpnr-ecp5",
        {f"{size}k": _ecp5(size) for size in ("25", "45", "85")},
        {"luts": "TRELLIS_COMB", "registers": "TRELLIS_FF", "dsps": "MULT18X18D", "block_rams": "DP16KD"},
        "--textcfg",
        ("ecppack",),
    ),
    "nexus": Router(
        "nextpnr-nexus",
        {"lifcl-40": Device("LIFCL-40, BG400, speed grade 7", ("--device", "LIFCL-40-7BG400C", "--pdc", "pins.pdc"))},
        {"luts": "OXIDE_COMB", "registers": "OXIDE_FF", "dsps": "MULT18_CORE", "block_rams": "OXIDE_EBR"},
        "--fasm",
        ("prjoxide", "pack"),
        "\n".join(
            f"ldc_set_location -site {{{site}}} [get_ports {pin}]"
            for pin, site in (("clk", "D12"), ("shift_in", "E17"), ("shift_out", "F13"))  # D12 leads to a clock network
        ),
    ),
}
"""The routers by family, a key of `softmaxkit.flow.fpga.FAMILIES`."""


def device_of(family: str, name: str | None) -> Device:
    """Return a device of a family by name; None is the first device.

    Raises:
        ValueError: there is no such device, or nextpnr does not place the family.
    """
    if family not in ROUTERS:
        raise ValueError(f"place and route supports {', '.join(ROUTERS)}, got {family}")
    devices = ROUTERS[family].devices
    if name is not None and name not in devices:
        raise ValueError(f"the device must be one of {', '.join(devices)} for {family}, got {name!r}")
    return devices[name or next(iter(devices))]
