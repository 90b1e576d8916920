"""Place and route in an FPGA with nextpnr: clock frequency after routing, resources used, bitstream."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softmaxkit.flow.checks import check_clocks
from softmaxkit.flow.fpga import FRAME, map_cells, resources
from softmaxkit.flow.frame import frame, frame_of
from softmaxkit.flow.interface import Port
from softmaxkit.flow.routers import ROUTERS, Device, Router, device_of
from softmaxkit.flow.sources import Source, explained
from softmaxkit.flow.tools import DesignError, ToolError, call, find, need
from softmaxkit.flow.verilog import to_rtlil

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

TARGET = 100.0
"""Default target clock frequency in MHz."""

SEED = 1
"""Default seed of placement; the clock frequency that is reached depends on it."""


class DoesNotFit(ToolError):
    """A design is too large for the device; the message names the resource that is exhausted, if known."""


FULL = re.compile(
    r"ERROR: .*(?:no BELs remaining to implement cell type '(\w+)'|"
    r"legal placement|utilisation limit|Failed to expand region)"
)
"""Errors of nextpnr that mean that the device is too small."""


@dataclass(frozen=True)
class Placement:
    """A placed and routed design.

    Attributes:
        device: title of the device.
        seed: seed of the placer.
        target: target clock frequency in MHz.
        fmax_mhz: clock frequency after routing, at the slowest conditions that nextpnr models.
        path: the critical path: the cells at its ends, and the delays of its logic and routing in ns.
        counts: resources of the design alone, before placement.
        frame: resources of the wrapper around it, which contains the memories that are external to a unit.
        used, available: resources of the device that both use together, and that it has.
        bitstream: the bitstream; None if the packer is not installed.
    """

    device: str
    seed: int
    target: float
    fmax_mhz: float
    path: dict[str, Any]
    counts: dict[str, int]
    frame: dict[str, int]
    used: dict[str, int]
    available: dict[str, int]
    bitstream: bytes | None

    def figures(self) -> dict[str, Any]:
        """Return the figures for the record; their names include the units."""
        return self.counts | {
            "device": self.device,
            "placer_seed": self.seed,
            "target_mhz": self.target,
            "fmax_mhz": round(self.fmax_mhz, 3),
            "clock_met": self.fmax_mhz >= self.target,
            "longest_path": self.path,
            **{f"frame_{kind}": count for kind, count in self.frame.items()},
            **{f"placed_{kind}": count for kind, count in self.used.items()},
            **{f"device_{kind}": count for kind, count in self.available.items()},
        }


class Placing(NamedTuple):
    """Options of placement.

    Attributes:
        device: a key of a router's `devices`; None for the first.
        seed: seed of the placer.
        target: target clock frequency in MHz.
    """

    device: str | None = None
    seed: int = SEED
    target: float = TARGET


def place_unit(unit: SoftmaxUnit, family: str, placing: Placing = Placing()) -> Placement:
    """Place and route a unit, with block memories as its external memories.

    Raises:
        ToolError, ValueError: as for `place`.
    """
    return place(Source("unit", {"design.il": to_rtlil(unit, "unit")}), frame_of(unit, "unit"), family, placing)


def place_verilog(source: Source, family: str, placing: Placing = Placing()) -> Placement:
    """Place and route a user's design with a single clock.

    Raises:
        ToolError, ValueError: as for `place`; or it has ports other than inputs and outputs, or several clocks.
    """
    device_of(family, placing.device)
    need(ROUTERS[family].tool)
    ports, clock = _ports_and_clock(source)
    return place(source, frame(ports, [], source.top, clock), family, placing)


def place(source: Source, around: str, family: str, placing: Placing) -> Placement:
    """Place and route a design in a wrapper.

    Args:
        source: the design.
        around: Verilog of the wrapper, from `softmaxkit.flow.frame.frame`.
        family: a key of `ROUTERS`.
        placing: options of placement.

    Raises:
        DoesNotFit: the device is too small.
        ToolError: a tool is missing or failed.
        ValueError: there is no such family or device.
    """
    device, router = device_of(family, placing.device), ROUTERS[family]
    tool = need(router.tool)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cells = map_cells(source, family, work, around)
        (work / "pins.pdc").write_text(router.pins, encoding="utf-8")
        options = ["--json", "design.json", "--top", FRAME, "--report", "report.json", router.routed, "routed"]
        options += ["--seed", str(placing.seed), "--freq", f"{placing.target:g}", "--timing-allow-fail", "--quiet"]
        try:
            call([tool, *options, *device.options], work, f"placing {source.top} in {device.title}")
        except ToolError as error:
            raise _explained(error, source.top, family, device) from None
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
        bitstream = _packed(router, work)
    own = resources(cells.pop(source.top), family)
    wrapper_modules = [resources(counts, family) for counts in cells.values()]
    outside = {kind: sum(counts[kind] for counts in wrapper_modules) for kind in own}
    utilization = {kind: report["utilization"][bel] for kind, bel in router.resources.items()}
    used = {kind: counts["used"] for kind, counts in utilization.items()}
    # nextpnr does not count carries; on iCE40 it counts logic cells, each with a look-up table, a carry and a register.
    counted = ("carries", "registers") if family == "ice40" else ("carries",)
    used |= {kind: own[kind] + outside[kind] for kind in counted}
    available = {kind: counts["available"] for kind, counts in utilization.items()}
    (clock,) = report["fmax"].values()
    path = _critical(report)
    return Placement(
        device.title, placing.seed, placing.target, clock["achieved"], path, own, outside, used, available, bitstream
    )


def _critical(report: dict[str, Any]) -> dict[str, Any]:
    """Return the ends of the path that limits the clock, and the delays of its logic and routing in ns."""
    inside = [path for path in report["critical_paths"] if "async" not in path["from"] + path["to"]]
    steps = max(inside, key=lambda path: sum(step["delay"] for step in path["path"]))["path"]
    routing = sum(step["delay"] for step in steps if step["type"] == "routing")
    return {
        "from": steps[0]["from"]["cell"],
        "to": steps[-1]["to"]["cell"],
        "logic_ns": round(sum(step["delay"] for step in steps) - routing, 3),
        "routing_ns": round(routing, 3),
    }


def _packed(router: Router, work: Path) -> bytes | None:
    """Return the bitstream of the routed design; None if the packer is not installed."""
    name, *first = router.packer
    packer = find(name)
    if packer is None:
        return None
    call([packer, *first, "routed", "bitstream"], work, "packing the bitstream")
    return (work / "bitstream").read_bytes()


def _explained(error: ToolError, top: str, family: str, device: Device) -> ToolError:
    """Return an error of nextpnr, replaced by a line of advice if the device is too small."""
    full = FULL.search(str(error))
    if full is None:
        return error
    lacking = f": it has too few {full[1]}" if full[1] else ""
    names = list(ROUTERS[family].devices)
    following = list(ROUTERS[family].devices.values()).index(device) + 1
    advice = (
        f"give --device {names[following]}" if following < len(names) else "give another --cells, or a smaller unit"
    )
    return DoesNotFit(f"{top} does not fit into {device.title}{lacking}; {advice}")


SURVEY = """
{read}
proc -norom
flatten
opt -fast
memory
opt_clean
simplemap
write_json registers.json
"""
"""Yosys script that reduces a design to one-bit flip-flops, whose clocks can be checked."""


def _ports_and_clock(source: Source) -> tuple[list[Port], str]:
    """Return the ports of a design, and the name of its clock port; empty if it has no clock.

    Raises:
        ToolError: a port is neither input nor output, the design has several clocks, or Yosys failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source.write(work)
        (work / "script.ys").write_text(SURVEY.format(read=source.commands()), encoding="utf-8")
        try:
            call([need("yosys"), "-q", "-s", "script.ys"], work, f"reading {source.top}")
        except ToolError as error:
            raise explained(error, source) from None
        module = json.loads((work / "registers.json").read_text(encoding="utf-8"))["modules"][source.top]
    clock = check_clocks(module)
    ports = [Port(name, port["direction"], len(port["bits"])) for name, port in module["ports"].items()]
    if wrong := [port for port in ports if port.direction not in ("input", "output")]:
        raise DesignError(
            f"port {wrong[0].name} of {source.top} is an {wrong[0].direction}; only inputs and outputs can be placed"
        )
    return ports, clock
