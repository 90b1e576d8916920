"""Technology mapping of designs to standard cells with Yosys and ABC."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from softmaxkit.files import cache_folder, content_key, whole_folder
from softmaxkit.flow.buffering import buffer_registers
from softmaxkit.flow.cells.library import Library, some
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.checks import check_clocks, check_outputs, latches_of
from softmaxkit.flow.netlist import Netlist, read_netlist
from softmaxkit.flow.scripts import RECIPES, mapping_scripts
from softmaxkit.flow.sources import Source, explained
from softmaxkit.flow.tools import DesignError, ToolError, call, need, yosys_version
from softmaxkit.flow.verilog import without_header
from softmaxkit.warning import warn

VERILOG = """
read_json design.json
write_verilog -noattr -norename -simple-lhs -nohex design.v
"""
"""Yosys script from a mapped design in JSON to Verilog. Instances keep the names that paths give them."""

REGISTERS = "registers.json"
"""File with a user's design in generic gates and registers, before they are mapped to the library."""


class Mapped(NamedTuple):
    """A mapped design.

    Attributes:
        recipe: the key of `RECIPES` that it was mapped with, and "resized" if cells were replaced afterwards.
        top: name of the top module.
        netlist: cells and nets.
        design: the netlist in Yosys's JSON form.
    """

    recipe: str
    top: str
    netlist: Netlist
    design: dict[str, Any]

    def to_verilog(self) -> str:
        """Return the netlist as Verilog.

        Raises:
            ToolError: Yosys is missing or failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            (work / "design.json").write_text(json.dumps(self.design), encoding="utf-8")
            (work / "script.ys").write_text(VERILOG, encoding="utf-8")
            _yosys(need("yosys"), "script.ys", work, "writing a netlist as Verilog")
            verilog = without_header((work / "design.v").read_text(encoding="utf-8"))
        return re.sub(r"^(\s*(?:input|output|wire)) signed\b", r"\1", verilog, flags=re.MULTILINE)


def map_design(source: Source, library: Library, clock: float, recipes: Sequence[str] = tuple(RECIPES)) -> list[Mapped]:
    """Map a design with several recipes. Results are cached by content.

    Args:
        source: the design.
        library: the cells.
        clock: clock period in ns that gates are sized for.
        recipes: keys of `RECIPES`; as many run at once as there are cores.

    Raises:
        ToolError: Yosys is missing or failed, or the design uses clocks, tri-state signals or registers that are not
            supported.
        LibertyError: the library lacks a flip-flop or an inverter, without which nothing can be mapped.
    """
    scripts = {**mapping_scripts(source, library, clock), "cells.lib": to_liberty(library)}
    key = content_key(source, scripts, yosys_version())
    generic = cache_folder() / "mapped" / key
    yosys = need("yosys")
    if not generic.is_dir():
        with whole_folder(generic) as work:
            source.write(work)
            for name, text in scripts.items():
                (work / name).write_text(text, encoding="utf-8")
            try:
                _yosys(yosys, "front.ys", work, f"reading {source.top}")
            except ToolError as error:
                raise explained(error, source) from None
            finally:  # our errors about registers are clearer than the errors of Yosys that follow from them
                if (work / "registers.il").is_file():
                    _check_registers((work / "registers.il").read_text(encoding="utf-8"), library)
                if (work / REGISTERS).is_file():
                    module = _module(work, source.top)
                    check_outputs(module)
                    check_clocks(module)
            (work / "registers.il").unlink()
    if source.is_verilog:
        _warn(generic, source.top)

    def mapped(recipe: str) -> Mapped:
        folder = cache_folder() / "mapped" / f"{key}-{recipe}"
        if not folder.is_dir():
            with whole_folder(folder) as work:
                for name in ("generic.il", "cells.lib", "constraints", f"{recipe}.ys", f"{recipe}.abc"):
                    shutil.copy(generic / name, work)
                _yosys(yosys, f"{recipe}.ys", work, f"mapping {source.top} ({recipe})")
                for name in ("generic.il", "cells.lib"):
                    (work / name).unlink()
        design = json.loads((folder / f"{recipe}.json").read_text(encoding="utf-8"))
        buffer_registers(design["modules"][source.top], library)
        return Mapped(recipe, source.top, read_netlist(design, source.top, library), design)

    with ThreadPoolExecutor(min(len(recipes), os.cpu_count() or 1)) as pool:  # 0.25 GB each with 16 lanes
        return list(pool.map(mapped, recipes))


def _module(folder: Path, top: str) -> dict[str, Any]:
    """Return a user's design in generic gates and registers, in Yosys's JSON form."""
    module: dict[str, Any] = json.loads((folder / REGISTERS).read_text(encoding="utf-8"))["modules"][top]
    return module


def _warn(folder: Path, top: str) -> None:
    """Warn of initial values, which are dropped, and of latches, which are timed only in part."""
    initial = [name.partition("/")[2] for name in (folder / "initial.txt").read_text(encoding="utf-8").splitlines()]
    if initial:
        warn(f"{top}: the initial values of {some(initial)} are dropped, since cells have none; use a reset instead")
    if latched := latches_of(_module(folder, top)):
        warn(
            f"{top}: {some(latched)} are latches; their paths are timed from the opening of the latch, "
            "and changes while it is open are not timed"
        )


def _yosys(yosys: str, script: str, work: Path, doing: str) -> None:
    """Run a script, and raise errors that Yosys or ABC print without a nonzero exit code."""
    printed = call([yosys, "-q", "-s", script], work, doing)
    wrong = [line for line in printed.splitlines() if re.search(r"\bERROR\b|\*\* cmd error|Error:", line)]
    if wrong:
        raise ToolError(f"Yosys reported an error while {doing}:\n" + "\n".join(f"  {line}" for line in wrong[:5]))


def _check_registers(generic: str, library: Library) -> None:
    """Reject registers that the library lacks or that timing analysis does not support."""
    kinds = set(re.findall(r"cell (\$_\w+)", generic))
    if any(re.match(r"\$_(?:S?DFFE?|SDFFCE|ALDFFE?|DFFSRE?)_N", kind) for kind in kinds):
        raise DesignError(
            "the design has flip-flops that are clocked by the falling edge; only rising-edge flip-flops are supported"
        )
    if any("DLATCH" in kind for kind in kinds) and not library.latches:
        raise DesignError(f"the design has latches, but {library.name} has none; build the unit with flip-flops")
