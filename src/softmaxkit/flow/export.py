"""Exports a unit as a folder for a chip project: Verilog, AXI-Stream wrapper, test bench with vectors, a README."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from softmaxkit.files import whole_folder, write_text
from softmaxkit.flow.cells.processes import PROCESSES
from softmaxkit.flow.constraints import SHARE, Constraints
from softmaxkit.flow.interface import describe, stream_ports, tables, unit_ports, whole_bytes
from softmaxkit.flow.paths import combinational_paths
from softmaxkit.flow.readable import comment_modules
from softmaxkit.flow.vectors import Segments, Stream, hexadecimal, stream
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.shell.folder import describe_shell, write_shell
from softmaxkit.shell.sram import choose_macro

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.folder import ShellFacts
    from softmaxkit.shell.options import ShellOptions
    from softmaxkit.shell.sram import SramMacro

PARAMETERS_FILE = "parameters.json"
"""The file by which a folder is recognised as an export."""

CALM = 5
"""Cycles of any traffic after which the folder's proofs see whether everything comes out."""

TEMPLATES = {
    "axis.sv": "{name}_axis.sv",
    "memory.sv": "{name}_memory.sv",
    "tb.sv": "{name}_tb.sv",
    "sva.sv": "{name}_sva.sv",
    "formal.sv": "{name}_formal.sv",
    "unit.sby": "{name}.sby",
    "prove.ys": "prove.ys",
    "unit.core": "{name}.core",
    "cocotb.sv": "{name}_cocotb.sv",
    "cocotb.py": "{name}_cocotb.py",
    "unit.sdc": "{name}.sdc",
    "sta.tcl": "{name}_sta.tcl",
    "librelane.json": "librelane.json",
    "lint.vlt": "lint.vlt",
    "README.md": "README.md",
    "Makefile": "Makefile",
}


def export(
    unit: SoftmaxUnit,
    name: str,
    folder: Path,
    segments: Segments,
    constraints: Constraints = Constraints(),
    heads: Mapping[str, Constants] = MappingProxyType({}),
    shell: ShellOptions | None = None,
    sram: str | None = None,
) -> None:
    """Write the folder of a unit, completely or not at all.

    Args:
        unit: baked or loadable.
        name: of the top module; the names of files and of the other modules begin with it.
        folder: to write; missing or empty.
        segments: constants with the rows that the test bench runs on them; see `softmaxkit.flow.vectors.stream`.
        constraints: of timing; their clock is also that of the test bench.
        heads: the constants, among those of `segments`, of heads of a model, by the heads' names.
        shell: to write around the unit, with a test bench of its own.
        sram: macro that its memories are made of, as `softmaxkit.shell.sram.choose_macro` takes it.

    Raises:
        ValueError: the name is no Verilog identifier, the folder holds something else, or the unit cannot take the rows
            or constants, the shell or the macro.
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    folder = check_export_folder(folder, overwrite=False)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"a module's name is letters, digits and underscores, a letter first, not {name!r}")
    _check_segments(unit, segments)
    macro = choose_macro(sram, unit) if sram else None
    around = describe_shell(unit, shell, segments) if shell else None
    vectors = stream(unit, segments)
    verilog = comment_modules(to_verilog(unit, name), unit, name)
    if not re.search(rf"^module {name}\(", verilog, re.MULTILINE):  # Yosys escapes keywords
        raise ValueError(f"{name!r} is a keyword of Verilog; give the module another name")
    facts = describe(unit, name) | ({"shell": around.to_json(name)} if around else {})
    loaded = tables(unit, [constants for constants, _ in segments], heads)
    first = segments[0][0]
    first = first.heads[0] if isinstance(first, Sets) else first
    with whole_folder(folder) as work:
        write_text(work / f"{name}.sv", verilog)
        _write_templates(work, unit, facts, loaded, first, constraints, around, macro)
        _write_vectors(work, unit, vectors)
        write_text(work / "tables.json", _json(loaded))
        write_text(work / PARAMETERS_FILE, _json(facts))


def check_export_folder(folder: Path, overwrite: bool) -> Path:
    """Return the resolved path of a folder that an export may be written to.

    Raises:
        ValueError: it is a file, it holds something else, or it holds an export and `overwrite` is not set.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to write the unit to")
    if folder.is_dir() and any(folder.iterdir()):
        if not _is_export(folder):
            raise ValueError(f"{folder} is not empty and holds no exported unit; give another folder")
        if not overwrite:
            raise ValueError(f"{folder} holds a unit already; give another folder, or --overwrite")
    return folder


def _is_export(folder: Path) -> bool:
    """Is this the folder of a unit, or one with such folders and nothing else?"""
    alone = (folder / PARAMETERS_FILE).exists()
    return all(_holds_a_unit(unit) for unit in ([folder] if alone else folder.iterdir()))


def _holds_a_unit(folder: Path) -> bool:
    try:
        return "softmaxkit" in json.loads((folder / PARAMETERS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_segments(unit: SoftmaxUnit, segments: Segments) -> None:
    if not segments or any(len(rows.lengths) == 0 for _, rows in segments):
        raise ValueError("a test bench needs rows; give at least one with each set of constants")
    longest = max(int(rows.lengths.max()) for _, rows in segments)
    if longest > unit.max_row:
        raise ValueError(f"the unit takes rows of up to {unit.max_row} scores, but one has {longest}")
    if unit.constants is not None and any(constants != unit.constants for constants, _ in segments):
        raise ValueError("the unit's constants are baked in; give rows with those constants only")


def _write_templates(
    work: Path,
    unit: SoftmaxUnit,
    facts: dict[str, Any],
    loaded: dict[str, Any],
    constants: Constants,
    constraints: Constraints,
    shell: ShellFacts | None,
    sram: SramMacro | None,
) -> None:
    templates = Environment(
        loader=PackageLoader("softmaxkit.flow"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    context = {
        **facts,
        "about": about(type(unit)),
        "rules": [about(getattr(type(unit), rule)) for rule in ("latency", "interval")],
        "summary": unit.spec.summary,
        "source": unit.spec.source,
        "registers": loaded["registers"],
        "heads": [name for each in loaded["sets"] for name in each["heads"]],
        "score_step": constants.real_scale,
        "result_step": float(unit.spec.decode(np.ones(1, np.int64), constants)[0]),
        "masks": unit.lanes * unit.masks,
        "holds_rows": unit.holds_rows,
        "code_bits": unit.code_shape.width,
        "result_bits": unit.result_bits,
        "cfg": unit.registers,
        "set_bits": unit.set_bits,
        "whole_bytes": whole_bytes,
        "period": constraints.period,
        "constraints": constraints,
        "share": SHARE,
        "wires": {name: process.wire for name, process in PROCESSES.items()},
        "patience": max(20_000, 4 * unit.latency(unit.max_row)),
        **_checker(unit, facts["name"], sram),
        "shell": shell,
        "sram": sram,
        "interfaces": (interfaces := _interfaces(facts, shell)),
        "top": interfaces[-1 if shell else 0],
    }
    modules = {
        facts["name"]: (work / f"{facts['name']}.sv").read_text(encoding="utf-8"),
        f"{facts['name']}_axis": templates.get_template("axis.sv.j2").render(context),
    }
    if shell is not None:
        write_shell(work, shell, facts["name"], templates, context)
        modules[f"{facts['name']}_axi"] = "".join(
            (work / f"{facts['name']}{part}.sv").read_text(encoding="utf-8") for part in ("", "_shell", "_axi")
        )
    paths = combinational_paths(modules)
    context["combinational_paths"] = paths
    facts["combinational_paths"] = {name: [path._asdict() for path in of] for name, of in paths.items()}
    files = dict(TEMPLATES)
    if sram is not None:
        files |= {"macro.sv": f"{sram.name}.sv", "memory_macro.sv": files["memory.sv"]}
    if sram is not None or not unit.memories:
        del files["memory.sv"]
    for template, name in files.items():
        text = templates.get_template(f"{template}.j2").render(context)
        write_text(work / name.format(name=facts["name"]), text)


def _interfaces(facts: dict[str, Any], shell: ShellFacts | None) -> list[dict[str, Any]]:
    """Return the modules that a netlist may be of, with their files, clocks and ports; that of the shell last."""
    ends = [("", "clk", facts["ports"], [""]), ("_axis", "aclk", facts["axis_ports"], ["", "_axis"])]
    if shell is not None:
        ends.append(("_axi", "aclk", shell.ports, ["", "_shell", "_axi"]))
    name = facts["name"]
    return [
        {"name": f"{name}{end}", "clock": clock, "ports": ports, "files": [f"{name}{part}.sv" for part in parts]}
        for end, clock, ports, parts in ends
    ]


def _checker(unit: SoftmaxUnit, name: str, sram: SramMacro | None) -> dict[str, Any]:
    """Return what the assertions and their proof need: streams with the bits of their payloads, and sizes."""
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
        "places": 1 << (4 * latency + 64).bit_length(),  # more than all buffers hold
        "formal": {
            "depth": busy,
            "calm": CALM,
            "calm_depth": calm_depth,
            "places": 1 << max(busy, calm_depth).bit_length(),  # a beat a cycle, at most
        },
    }


def about(documented: object) -> str:
    """Return a docstring up to its first section (Args, Returns ...)."""
    return re.split(r"\n\n?(?:Args|Returns|Raises|Attributes):", inspect.getdoc(documented) or "")[0]


def _write_vectors(work: Path, unit: SoftmaxUnit, vectors: Stream) -> None:
    write_text(work / "scores.hex", hexadecimal(vectors.scores, len(unit.scores.payload.as_value())))
    write_text(work / "results.hex", hexadecimal(vectors.results, len(unit.results.payload.as_value())))
    if unit.registers is not None:
        after = [f"{int(beats):x} " for beats in vectors.writes[:, 0]]
        lines = hexadecimal(vectors.writes[:, 1:], unit.registers.layout.size).splitlines(keepends=True)
        write_text(work / "writes.hex", "".join(map("".join, zip(after, lines, strict=True))))


def _json(facts: dict[str, Any]) -> str:
    """Return readable JSON: innermost lists and objects take one line each."""
    text = json.dumps(facts, indent=1)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text) + "\n"
