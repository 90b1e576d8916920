"""Files that synthesis writes: netlists with their longest paths, and bitstreams of placed designs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.files import write_bytes, write_text
from softmaxkit.studies.progress import Say

if TYPE_CHECKING:
    from softmaxkit.flow.figures import Synthesis
    from softmaxkit.flow.place import Placement, Placing
    from softmaxkit.studies.silicon import SynthesisOptions


def placed_figures(
    name: str, place: Callable[[str, Placing], Placement], options: SynthesisOptions, say: Say
) -> dict[str, Any]:
    """Place a design in an FPGA, write its bitstream, and return its figures; if it does not fit, the reason.

    Args:
        name: name of the design.
        place: places it in a family of FPGAs in the way that `options.placing` sets.
        options: how to synthesise; `placing` must be set.
        say: called with the reason or with the file written.
    """
    from softmaxkit.flow.place import DoesNotFit

    assert options.placing is not None
    try:
        placement = place(options.cells, options.placing)
    except DoesNotFit as error:
        say(f"{name}: {error}")
        return {"unplaced": str(error)}
    if options.output is not None and placement.bitstream is not None:
        path = options.output / f"{file_name(name)}.bit"
        write_bytes(path, placement.bitstream)
        say(f"bitstream: {path}")
    return placement.figures()


def file_name(name: str) -> str:
    """Return a name as part of a file name: every run of other characters becomes one underscore."""
    return re.sub(r"\W+", "_", name).strip("_")


def write_netlist(folder: Path, name: str, synthesis: Synthesis, say: Say) -> None:
    """Write a netlist, its cells as Liberty for a timing analyser, and its paths of least setup and hold slack."""
    from softmaxkit.flow.cells.writing import to_liberty

    timing = synthesis.timing
    write_text(folder / f"{name}.v", synthesis.mapped.to_verilog())
    write_text(folder / "cells.lib", to_liberty(synthesis.mapped.netlist.library, analysis=True))
    paths = [
        ("longest path, with the setup time", timing.path),
        ("smallest hold slack, less the hold time", timing.shortest),
    ]
    lines = []
    for title, path in paths:
        lines.append(f"{title}:")
        lines += [f"{step.time:9.4f} ns  {step.edge:4}  {step.cell:32} {step.instance}" for step in path]
    write_text(folder / f"{name}.path.txt", "\n".join(lines) + "\n")
    say(f"netlist: {folder / name}.v")
