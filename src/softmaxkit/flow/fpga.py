"""FPGA resource counts from Yosys: look-up tables, carries, registers, multipliers and block memories."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from softmaxkit.flow.sources import Source, explained
from softmaxkit.flow.tools import ToolError, call, need


class Family(NamedTuple):
    """An FPGA family.

    Attributes:
        title: full name.
        command: Yosys command that maps a design to the family.
        kinds: pattern of cell names for each resource.
    """

    title: str
    command: str
    kinds: dict[str, str]


FAMILIES = {
    "ice40": Family(
        "Lattice iCE40 UltraPlus",
        "synth_ice40 -dsp -device u",
        {
            "luts": r"SB_LUT4",
            "carries": r"SB_CARRY",
            "registers": r"SB_DFF\w*",
            "dsps": r"SB_MAC16",
            "block_rams": r"SB_RAM40\w*|SB_SPRAM\w*",
        },
    ),
    "ecp5": Family(
        "Lattice ECP5",
        "synth_ecp5",
        {
            "luts": r"LUT4|TRELLIS_DPR16X4|CCU2C",
            "carries": r"CCU2C",
            "registers": r"TRELLIS_FF",
            "dsps": r"MULT18X18D",
            "block_rams": r"DP16KD",
        },
    ),
    "nexus": Family(
        "Lattice Nexus",
        # Without carry cells: Yosys ties the first carry of a chain to 0, which nextpnr refuses (yosys issue 4081).
        "synth_nexus -family lifcl -noccu2",
        {
            "luts": r"LUT4|DPR16X4|WIDEFN9",
            "carries": r"CCU2",
            "registers": r"FD1P3\w+",
            "dsps": r"MULT\w+",
            "block_rams": r"(?:PDPSC|PDP|DP|SP)16K\w*",
        },
    ),
    "xilinx": Family(
        "AMD 7 series",
        "synth_xilinx -family xc7 -flatten",
        {
            "luts": r"LUT[1-6]|RAM\d+\w*|SRL\w+",
            "carries": r"CARRY4",
            "registers": r"FD[RSCP]E?\w*|LD[CP]E",
            "dsps": r"DSP48E1",
            "block_rams": r"RAMB\w+",
        },
    ),
}


TABLES = {
    **{"CCU2C": 2, "TRELLIS_DPR16X4": 4, "DPR16X4": 4, "WIDEFN9": 2},
    **{"RAM32M": 4, "RAM64M": 4, "RAM128X1S": 2, "RAM256X1S": 4, "RAM64X1D": 2, "RAM128X1D": 4},
}
"""Number of look-up tables in the cells that occupy more than one."""

FRAME = "softmaxkit_frame"
"""Name of the wrapper module of a design that is placed."""


def count_cells(source: Source, family: str) -> dict[str, int]:
    """Return how many look-up tables, carries, registers, multipliers and block memories a design uses.

    Carry cells also count as look-up tables on ECP5, where they occupy them; elsewhere they do not.

    Args:
        source: the design.
        family: a key of `FAMILIES`.

    Raises:
        ToolError: Yosys is missing or failed.
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"the FPGA family must be one of {', '.join(FAMILIES)}, got {family!r}")
    with tempfile.TemporaryDirectory() as folder:
        return resources(map_cells(source, family, Path(folder))[source.top], family)


def resources(cells: Mapping[str, int], family: str) -> dict[str, int]:
    """Return the resources that are used by cells, from the number of cells of each type."""
    return {
        kind: sum(
            count * (TABLES.get(cell, 1) if kind == "luts" else 1)
            for cell, count in cells.items()
            if re.fullmatch(pattern, cell)
        )
        for kind, pattern in FAMILIES[family].kinds.items()
    }


def map_cells(source: Source, family: str, work: Path, frame: str = "") -> dict[str, dict[str, int]]:
    """Map a design and return the number of cells of each type, by module.

    Args:
        source: the design.
        family: a key of `FAMILIES`.
        work: an empty folder to work in.
        frame: Verilog of a wrapper module `FRAME` around the design. The design is then mapped and counted separately
            from the wrapper, and both are written to `design.json`, flattened.

    Raises:
        ToolError: Yosys is missing or failed, or the family has no cell for part of the design.
    """
    source.write(work)
    script = [source.commands(), "setattr -unset init"]
    top = source.top
    if frame:
        top = FRAME
        (work / "frame.v").write_text(frame, encoding="utf-8")
        script += ["flatten", "read_verilog frame.v", f"hierarchy -check -top {top}"]
        script += [f"setattr -mod -set keep_hierarchy 1 {source.top}"]
    script += [f"{FAMILIES[family].command} -top {top}", "tee -q -o stat.json stat -json"]
    if frame:
        script += ["setattr -mod -unset keep_hierarchy *", "flatten", "opt_clean -purge", "write_json design.json"]
    (work / "script.ys").write_text("\n".join(script), encoding="utf-8")
    try:
        call([need("yosys"), "-q", "-s", "script.ys"], work, f"mapping {source.top} to {family}")
    except ToolError as error:
        raise explained(error, source) from None
    modules = json.loads((work / "stat.json").read_text(encoding="utf-8"))["modules"]
    cells = {name.lstrip("\\"): dict(module["num_cells_by_type"]) for name, module in modules.items()}
    if left := {kind for counts in cells.values() for kind in counts if kind.startswith("$_")}:
        raise ToolError(f"{family} has no cell for {', '.join(sorted(left))}; build the unit with flip-flops")
    return cells
