"""Place and route in an FPGA by nextpnr: the clock after routing, what of the device is used, a bitstream."""

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
from softmaxkit.flow.tools import ToolError, call, find, need
from softmaxkit.flow.verilog import to_rtlil

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

TARGET = 100.0
"""Clock in MHz that is asked of the router, unless one is given."""

SEED = 1
"""Of placement, unless one is given; another one gives another clock."""


class DoesNotFit(ToolError):
    """A design is too large for the device; the message says of what there is too little."""


FULL = re.compile(
    r"ERROR: .*(?:no BELs remaining to implement cell type '(\w+)'|"
    r"legal placement|utilisation limit|Failed to expand region)"
)
"""What nextpnr says where a device is too small."""


@dataclass(frozen=True)
class Placement:
    """A placed and routed design.

    Attributes:
        device: its title.
        seed: of the placer.
        target: clock in MHz that was asked for.
        fmax_mhz: clock after routing, of the slowest conditions that nextpnr knows.
        path: names of the cells at the ends of the critical path, and its parts in ns: logic and routing.
        counts: resources that the design takes by itself, before placement.
        frame: those of the frame around it, which has the memory in which rows wait.
        used, available: resources of the device: taken by both together, and there.
        bitstream: None if the packer is not installed.
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
    """How to place: a key of a router's `devices` or None for the first, a seed, and the clock in MHz to ask for."""

    device: str | None = None
    seed: int = SEED
    target: float = TARGET


def place_unit(unit: SoftmaxUnit, family: str, placing: Placing = Placing()) -> Placement:
    """Place and route a unit, with a block memory where its rows wait outside.

    Raises:
        ToolError, ValueError: as `place`.
    """
    return place(Source("unit", {"design.il": to_rtlil(unit, "unit")}), frame_of(unit, "unit"), family, placing)


def place_verilog(source: Source, family: str, placing: Placing = Placing()) -> Placement:
    """Place and route anybody's design, of one clock.

    Raises:
        ToolError, ValueError: as `place`; or it has other ports than inputs and outputs, or several clocks.
    """
    need(ROUTERS[family].tool)
    ports, clock = _ports_and_clock(source)
    return place(source, frame(ports, [], source.top, clock), family, placing)


def place(source: Source, around: str, family: str, placing: Placing) -> Placement:
    """Place and route a design in a frame.

    Args:
        source: the design.
        around: Verilog of the frame, as of `softmaxkit.flow.frame.frame`.
        family: a key of `ROUTERS`.
        placing: how.

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
    around_it = [resources(counts, family) for counts in cells.values()]
    outside = {kind: sum(counts[kind] for counts in around_it) for kind in own}
    use = {kind: report["utilization"][bel] for kind, bel in router.resources.items()}
    used = {kind: number["used"] for kind, number in use.items()}
    # A logic cell of iCE40 has a table, a carry and a register, and nextpnr counts the cells.
    counted = ("carries", "registers") if family == "ice40" else ("carries",)
    used |= {kind: own[kind] + outside[kind] for kind in counted}
    available = {kind: number["available"] for kind, number in use.items()}
    (clock,) = report["fmax"].values()
    path = _critical(report)
    return Placement(
        device.title, placing.seed, placing.target, clock["achieved"], path, own, outside, used, available, bitstream
    )


def _critical(report: dict[str, Any]) -> dict[str, Any]:
    """Return where the path that limits the clock begins and ends, and how long logic and routing take of it."""
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
    """Return the bitstream of the routed design; None if its packer is not installed."""
    name, *first = router.packer
    packer = find(name)
    if packer is None:
        return None
    call([packer, *first, "routed", "bitstream"], work, "packing the bitstream")
    return (work / "bitstream").read_bytes()


def _explained(error: ToolError, top: str, family: str, device: Device) -> ToolError:
    """Return an error of nextpnr in one line where the device is too small."""
    full = FULL.search(str(error))
    if full is None:
        return error
    lacking = f": it has too few {full[1]}" if full[1] else ""
    names = list(ROUTERS[family].devices)
    place = list(ROUTERS[family].devices.values()).index(device)
    larger = (
        f"give --device {names[place + 1]}" if place + 1 < len(names) else "give another --cells, or a smaller unit"
    )
    return DoesNotFit(f"{top} does not fit into {device.title}{lacking}; {larger}")


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
"""From a design to flip-flops of one bit, whose clock can be seen."""


def _ports_and_clock(source: Source) -> tuple[list[Port], str]:
    """Return the ports of a design, and the name of its clock; empty if it has none.

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
        raise ToolError(
            f"port {wrong[0].name} of {source.top} is {wrong[0].direction}; only inputs and outputs can be placed"
        )
    return ports, clock
