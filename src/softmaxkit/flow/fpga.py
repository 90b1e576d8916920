"""Resource counts for FPGAs from Yosys: look-up tables, registers, multipliers and block memories."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from softmaxkit.flow.sources import Source, explained
from softmaxkit.flow.tools import ToolError, call, need


class Family(NamedTuple):
    """An FPGA family.

    Attributes:
        title: full name.
        command: the Yosys command that maps to it.
        kinds: patterns of cell names for each resource.
    """

    title: str
    command: str
    kinds: dict[str, str]


FAMILIES = {
    "ice40": Family(
        "Lattice iCE40 UltraPlus",
        "synth_ice40 -dsp -device u",
        {"luts": r"SB_LUT4", "registers": r"SB_DFF\w*", "dsps": r"SB_MAC16", "block_rams": r"SB_RAM40\w*|SB_SPRAM\w*"},
    ),
    "ecp5": Family(
        "Lattice ECP5",
        "synth_ecp5",
        {
            "luts": r"LUT4|TRELLIS_DPR16X4|CCU2C",
            "registers": r"TRELLIS_FF",
            "dsps": r"MULT18X18D",
            "block_rams": r"DP16KD",
        },
    ),
    "xilinx": Family(
        "AMD 7 series",
        "synth_xilinx -family xc7",
        {
            "luts": r"LUT[1-6]|RAM\d+\w*|SRL\w+",
            "registers": r"FD[RSCP]E?\w*|LD[CP]E",
            "dsps": r"DSP48E1",
            "block_rams": r"RAMB\w+",
        },
    ),
}


def count_cells(source: Source, family: str) -> dict[str, int]:
    """Return how many look-up tables, registers, multipliers and block memories a design takes.

    Carry cells count as look-up tables on ECP5, where they occupy them, and not at all elsewhere.

    Args:
        source: the design.
        family: a key of `FAMILIES`.

    Raises:
        ToolError: Yosys is missing or failed.
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"FPGA families are {', '.join(FAMILIES)}, not {family!r}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source.write(work)
        script = [
            source.commands(),
            "setattr -unset init",
            f"{FAMILIES[family].command} -top {source.top} -flatten",
            "tee -q -o stat.json stat -json",
        ]
        (work / "script.ys").write_text("\n".join(script), encoding="utf-8")
        try:
            call([need("yosys"), "-q", "-s", "script.ys"], work, f"mapping {source.top} to {family}")
        except ToolError as error:
            raise explained(error, source) from None
        stat = json.loads((work / "stat.json").read_text(encoding="utf-8"))
    cells: Counter[str] = Counter(stat["design"]["num_cells_by_type"])
    if left := [kind for kind in cells if kind.startswith("$_")]:
        raise ToolError(f"{family} has no cell for {', '.join(sorted(left))}; build the unit with flip-flops")
    return {
        kind: sum(count for cell, count in cells.items() if re.fullmatch(pattern, cell))
        for kind, pattern in FAMILIES[family].kinds.items()
    }
