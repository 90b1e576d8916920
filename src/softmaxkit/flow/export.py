"""Exports a unit as a folder for a chip project: Verilog, AXI-Stream wrapper, test bench with vectors, a README."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from softmaxkit.files import whole_folder, write_text
from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export_context import template_context
from softmaxkit.flow.identifiers import check_name
from softmaxkit.flow.interface import describe, tables
from softmaxkit.flow.paths import combinational_paths
from softmaxkit.flow.vectors import Segments, Stream, hexadecimal, stream
from softmaxkit.flow.verilog import to_commented_verilog
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

TEMPLATES = {
    "axis.sv": "{name}_axis.sv",
    "memory.sv": "{name}_memory.sv",
    "top.sv": "{name}_top.sv",
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
    further: Segments = (),
) -> None:
    """Write the folder of a unit, completely or not at all.

    Args:
        unit: baked or loadable.
        name: name of the top module; the names of files and of the other modules begin with it.
        folder: the folder to write; it must be missing or empty.
        segments: sets of constants with the rows that the test bench runs on them; see
            `softmaxkit.flow.vectors.stream`.
        constraints: timing constraints; the test bench has the same clock period.
        heads: constants, among those of `segments`, of the heads of a model, by head name.
        shell: options of the shell around the unit, which has a test bench of its own; None for no shell.
        sram: macro to build the memories from, as for `softmaxkit.shell.sram.choose_macro`; None for a memory model.
        further: segments that only the bench of the unit runs, after the others; that of the shell leaves them out.

    Raises:
        ValueError: the name is not a Verilog identifier, the folder has other contents, or the unit does not support
            the rows, constants, shell or macro.
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    folder = check_export_folder(folder, overwrite=False)
    check_name(name)
    _check_segments(unit, [*segments, *further])
    macro = choose_macro(sram, unit) if sram else None
    if macro is not None and macro.name.startswith(name):
        raise ValueError(f"the macro {macro.name} has the name of a module of {name}; give the unit another name")
    around = describe_shell(unit, shell, segments) if shell else None
    vectors = stream(unit, [*segments, *further], np.random.default_rng(0))
    verilog = to_commented_verilog(unit, name)
    facts = describe(unit, name) | ({"shell": around.to_json(name)} if around else {})
    loaded = tables(unit, [constants for constants, _ in segments], heads)
    first = segments[0][0]
    first = first.heads[0] if isinstance(first, Sets) else first
    context = template_context(unit, facts, loaded, first, constraints, around, macro)
    with whole_folder(folder) as work:
        write_text(work / f"{name}.sv", verilog)
        _write_templates(work, unit, facts, context, around, macro)
        _write_vectors(work, unit, vectors)
        write_text(work / "tables.json", _json(loaded))
        write_text(work / PARAMETERS_FILE, _json(facts))


def check_export_folder(folder: Path, overwrite: bool) -> Path:
    """Return the resolved path of a folder that an export may be written to.

    Raises:
        ValueError: it is a file, it has other contents, or it is an exported folder and `overwrite` is not set.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to write the unit to")
    if folder.is_dir() and any(folder.iterdir()):
        if not _is_export(folder):
            raise ValueError(f"{folder} is not empty and is not an exported unit; give another folder")
        if not overwrite:
            raise ValueError(f"{folder} already contains an exported unit; give another folder, or --overwrite")
    return folder


def _is_export(folder: Path) -> bool:
    """Return whether a folder is that of a unit, or contains only such folders."""
    single = (folder / PARAMETERS_FILE).exists()
    return all(_is_unit(unit) for unit in ([folder] if single else folder.iterdir()))


def _is_unit(folder: Path) -> bool:
    try:
        return "softmaxkit" in json.loads((folder / PARAMETERS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_segments(unit: SoftmaxUnit, segments: Segments) -> None:
    if not segments or any(len(rows.lengths) == 0 for _, rows in segments):
        raise ValueError("the test bench requires rows; give at least one row with each set of constants")
    longest = max(int(rows.lengths.max()) for _, rows in segments)
    if longest > unit.max_row:
        raise ValueError(f"the unit accepts rows of up to {unit.max_row} scores, got one of {longest}")
    if unit.constants is not None and any(constants != unit.constants for constants, _ in segments):
        raise ValueError("the unit's constants are baked in; give rows with those constants only")


def _write_templates(
    work: Path,
    unit: SoftmaxUnit,
    facts: dict[str, Any],
    context: dict[str, Any],
    shell: ShellFacts | None,
    sram: SramMacro | None,
) -> None:
    templates = templates_of("softmaxkit.flow")
    context = context | {
        "about": about(type(unit)),
        "rules": [about(getattr(type(unit), rule)) for rule in ("latency", "interval")],
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
    if joined := context["joined"]:
        # None goes through a memory, whose reads are clocked.
        outside = {port["name"] for port in joined["ports"]}
        paths[joined["name"]] = [path for path in paths[context["around"]["name"]] if outside.issuperset(path)]
    context["combinational_paths"] = paths
    facts["combinational_paths"] = {name: [path._asdict() for path in of] for name, of in paths.items()}
    files = dict(TEMPLATES)
    if sram is not None:
        files |= {"macro.sv": f"{sram.name}.sv", "memory_macro.sv": files["memory.sv"]}
    if sram is not None or not unit.memories:
        del files["memory.sv"]
    if not unit.memories:
        del files["top.sv"]
    for template, name in files.items():
        text = templates.get_template(f"{template}.j2").render(context)
        write_text(work / name.format(name=facts["name"]), text)


@cache
def templates_of(*packages: str) -> Environment:
    """Return the templates of exported files in some packages; the first package that has a template provides it."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def about(documented: object) -> str:
    """Return the docstring of an object up to its first section (Args, Returns ...)."""
    return re.split(r"\n\n?(?:Args|Returns|Raises|Attributes):", inspect.getdoc(documented) or "")[0]


def _write_vectors(work: Path, unit: SoftmaxUnit, vectors: Stream) -> None:
    write_text(work / "scores.hex", hexadecimal(vectors.scores, len(unit.scores.payload.as_value())))
    write_text(work / "results.hex", hexadecimal(vectors.results, len(unit.results.payload.as_value())))
    if unit.registers is not None:
        after = [f"{int(beats):x} " for beats in vectors.writes[:, 0]]
        lines = hexadecimal(vectors.writes[:, 1:], unit.registers.layout.size).splitlines(keepends=True)
        write_text(work / "writes.hex", "".join(map("".join, zip(after, lines, strict=True))))


def _json(facts: dict[str, Any]) -> str:
    """Return readable JSON, with each innermost list or object on one line."""
    text = json.dumps(facts, indent=1)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text) + "\n"
