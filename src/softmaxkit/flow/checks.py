"""Checks of a user's design before it is mapped: one input must clock all flip-flops, and nothing may be tri-state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softmaxkit.flow.tools import DesignError

FLIP_FLOP = re.compile(r"\$_(?:S?DFFE?|SDFFCE|ALDFFE?|DFFSRE?)_")
LATCH = re.compile(r"\$_DLATCH(?:SR)?_")
ONE_CLOCK = "a design must have a single clock, an input that drives all flip-flops directly"


def check_clocks(module: Mapping[str, Any]) -> str:
    """Return the name of the input that clocks a design; empty if it has no flip-flops.

    Args:
        module: the flat design in gates and flip-flops, in Yosys's JSON form.

    Raises:
        DesignError: there are several clocks, or one that is gated, divided, constant or used as data; the message
            names it.
    """
    inputs: dict[Any, str] = {}
    for name, port in module["ports"].items():
        if port["direction"] == "input":
            vector = len(port["bits"]) > 1
            inputs |= {bit: f"{name}[{place}]" if vector else name for place, bit in enumerate(port["bits"])}
    cells = module["cells"].values()
    clocks = dict.fromkeys(cell["connections"]["C"][0] for cell in cells if FLIP_FLOP.match(cell["type"]))
    for clock in clocks:
        if clock not in inputs:
            name, driver = _name_of(module, clock), _driver(module, clock)
            divided = driver is not None and FLIP_FLOP.match(driver)
            fault = "is divided (driven by a flip-flop)" if divided else "is gated (driven by logic)"
            if isinstance(clock, str):
                fault = "is constant"
            raise DesignError(f"the clock {name} {fault}; {ONE_CLOCK}. Use a clock enable instead: if (enable) q <= d")
    if len(clocks) > 1:
        named = " and ".join(sorted(inputs[clock] for clock in clocks))
        raise DesignError(f"the design has several clocks ({named}); {ONE_CLOCK}")
    for clock in clocks:
        if "[" in inputs[clock]:
            raise DesignError(f"the clock {inputs[clock]} is one bit of a vector port; give it a port of its own")
        _check_use(module, clock, inputs[clock])
    return "".join(inputs[clock] for clock in clocks)


def check_outputs(module: Mapping[str, Any]) -> None:
    """Reject a design, in the form that `check_clocks` takes, with tri-state signals, which no cell here can drive.

    Raises:
        DesignError: there is such a signal; the message names one.
    """
    for cell in module["cells"].values():
        if cell["type"] == "$_TBUF_":
            name = _name_of(module, cell["connections"]["Y"][0])
            raise DesignError(f"{name} is a tri-state signal, which no cell here can drive; use a multiplexer instead")


def latches_of(module: Mapping[str, Any]) -> list[str]:
    """Return the names of the signals that are stored in latches."""
    stored = [cell["connections"]["Q"][0] for cell in module["cells"].values() if LATCH.match(cell["type"])]
    return list(dict.fromkeys(_name_of(module, bit) for bit in stored))


def _check_use(module: Mapping[str, Any], clock: int, name: str) -> None:
    """Reject a clock that reaches anything but flip-flop clocks and, through gates, the enables of latches."""
    carried, gates = {clock}, [cell for cell in module["cells"].values() if not _is_register(cell)]
    while True:
        reached = [cell for cell in gates if any(bit in carried for pin, bit in _pins(cell) if pin != "Y")]
        outputs = {bit for cell in reached for pin, bit in _pins(cell) if pin == "Y"}
        if outputs <= carried:
            break
        carried |= outputs
    ends = {
        bit
        for cell in module["cells"].values()
        if _is_register(cell)
        for pin, bit in _pins(cell)
        if pin not in (("E", "Q") if LATCH.match(cell["type"]) else ("C", "Q"))
    }
    outside = {bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]}
    if wrong := (ends & carried) | (outside & carried - {clock}):
        used = _name_of(module, min(wrong))
        raise DesignError(f"the clock {name} is used as data in {used}; {ONE_CLOCK}")


def _is_register(cell: Mapping[str, Any]) -> bool:
    return bool(FLIP_FLOP.match(cell["type"]) or LATCH.match(cell["type"]))


def _pins(cell: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(pin, bits[0]) for pin, bits in cell["connections"].items() if bits]


def _driver(module: Mapping[str, Any], bit: Any) -> str | None:
    """Return the type of the cell that drives a bit."""
    for cell in module["cells"].values():
        if any(connected == bit and pin in ("Y", "Q") for pin, connected in _pins(cell)):
            return str(cell["type"])
    return None


def _name_of(module: Mapping[str, Any], bit: Any) -> str:
    """Return the name of a signal in the source; its number if it has none."""
    names = [
        (bool(net["hide_name"]), len(name), f"{name}[{net['bits'].index(bit)}]" if len(net["bits"]) > 1 else name)
        for name, net in module["netnames"].items()
        if bit in net["bits"]
    ]
    return min(names)[2] if names else repr(bit)
