"""Variables of the templates of an exported folder: formats, sizes, constraints, streams and top modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.flow.cells.processes import PROCESSES
from softmaxkit.flow.constraints import SHARE, Constraints, half_period_ps
from softmaxkit.flow.interface import stream_ports, unit_ports, whole_bytes

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.folder import ShellFacts
    from softmaxkit.shell.sram import SramMacro

CALM = 5
"""Cycles of arbitrary traffic after which the folder's proof checks that everything comes out."""


def template_context(
    unit: SoftmaxUnit,
    facts: dict[str, Any],
    loaded: dict[str, Any],
    constants: Constants,
    constraints: Constraints,
    shell: ShellFacts | None,
    sram: SramMacro | None,
) -> dict[str, Any]:
    """Return the variables that the templates use.

    Args:
        unit: the unit of the folder.
        facts: contents of `parameters.json`, which are variables too.
        loaded: contents of `tables.json`.
        constants: constants whose score and result steps the README gives.
        constraints: timing constraints.
        shell: the shell around the unit; None if there is none.
        sram: macro that the memories are built from; None for a memory model.
    """
    ends = _interfaces(facts, shell)
    joined = _joined(facts, ends[-1]) if unit.memories else None
    return {
        **facts,
        "summary": unit.spec.summary,
        "source": unit.spec.source,
        "registers": loaded["registers"],
        "heads": [name for constant_set in loaded["sets"] for name in constant_set["heads"]],
        "score_step": constants.real_scale,
        "result_step": float(unit.spec.decode(np.ones(1, np.int64), constants)[0]),
        "masks": unit.lanes * unit.masks,
        "holds_rows": unit.holds_rows,
        "code_bits": unit.code_shape.width,
        "result_bits": unit.result_bits,
        "cfg": unit.registers,
        "set_bits": unit.set_bits,
        "whole_bytes": whole_bytes,
        **timing_context(constraints),
        "patience": max(20_000, 4 * unit.latency(unit.max_row)),
        **_checker(unit, facts["name"], sram),
        "shell": shell,
        "sram": sram,
        "interfaces": [*ends, *([joined] if joined else [])],
        "wrapper": ends[1],
        "around": ends[-1],
        "joined": joined,
        "top": joined if sram else ends[-1 if shell else 0],
    }


def timing_context(constraints: Constraints) -> dict[str, Any]:
    """Return the variables of timing constraints and their OpenSTA script, except for the modules that they are for."""
    return {
        "period": constraints.period,
        "half_period_ps": half_period_ps(constraints.period),
        "constraints": constraints,
        "share": SHARE,
        "wires": {name: process.wire for name, process in PROCESSES.items()},
    }


def _interfaces(facts: dict[str, Any], shell: ShellFacts | None) -> list[dict[str, Any]]:
    """Return the modules that can be the top of a netlist, with their files, clocks and ports; the shell's is last."""
    ends = [("", "clk", facts["ports"], [""]), ("_axis", "aclk", facts["axis_ports"], ["", "_axis"])]
    if shell is not None:
        ends.append(("_axi", "aclk", shell.ports, ["", "_shell", "_axi"]))
    name = facts["name"]
    return [
        {"name": f"{name}{end}", "clock": clock, "ports": ports, "files": [f"{name}{part}.sv" for part in parts]}
        for end, clock, ports, parts in ends
    ]


def _joined(facts: dict[str, Any], around: dict[str, Any]) -> dict[str, Any]:
    """Return the module that joins the wrapper, or the shell, to the memories; like the others, it can be the top."""
    pins = tuple(f"{memory['name']}_" for memory in facts["memories"])
    name = f"{facts['name']}_top"
    ports = [port for port in around["ports"] if not port["name"].startswith(pins)]
    return around | {
        "name": name,
        "ports": ports,
        "files": [*around["files"], f"{facts['name']}_memory.sv", f"{name}.sv"],
    }


def _checker(unit: SoftmaxUnit, name: str, sram: SramMacro | None) -> dict[str, Any]:
    """Return the variables of the assertions, their proof and the cocotb bench: streams, sources and depths."""
    latency, interval = unit.latency(unit.max_row), unit.interval(unit.max_row)
    streams = ["scores", "results", *["configuration"] * (unit.registers is not None)]
    busy, calm_depth = unit.latency(1) + unit.interval(1) + 4, CALM + latency + 3 * interval + 2
    if unit.sets > 1 and not unit.holds_rows:
        busy += unit.latency(1) + 2  # a row, a write into another set, and the row again
    return {
        "streams": [(port, len(getattr(unit, port).payload.as_value())) for port in streams],
        "stream_ports": [port._asdict() for port in stream_ports(unit)],
        "cocotb_sources": [
            *(f"{name}{end}.sv" for end in ("", "_axis", *["_memory"] * bool(unit.memories), "_cocotb")),
            *([f"{sram.name}.sv"] if sram else []),
        ],
        "memory_pins": [port.name for port in unit_ports(unit) if port not in stream_ports(unit)],
        "places": 1 << (4 * latency + 64).bit_length(),  # more than all buffers can store
        "formal": {
            "depth": busy,
            "calm": CALM,
            "calm_depth": calm_depth,
            "places": 1 << max(busy, calm_depth).bit_length(),  # at most one beat enters per cycle
        },
    }
