"""Options of `softmaxkit synth`, and which of them exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.options import InputFile, any_of, given, output_file, refuse, writable_folder
from softmaxkit.cli.units import STORAGE, STORAGE_HELP, check_head_options
from softmaxkit.methods.base.metadata import Storage

OF_UNITS = (
    *("constants", "sets", "lanes", "max_row", "depth", "storage", "sram"),
    *("layer", "head", "text", "context", "pareto"),
)
"""Options for units, which do not apply to a Verilog design."""

OF_PARETO = ("clock", "depth", "storage", "constants", "sets", "spec", "model", "layer", "head", "text", "context")
"""Options whose values `--pareto` chooses itself, or that apply to a single unit."""

NOT_OF_ENGINES = ("sets", "pareto", "place", "device", "seed", "markdown")
"""Options that do not apply to an engine."""

OF_VERILOG = ("top", "include", "define", "parameter")
"""Options for a Verilog design."""


def names_of_cells() -> list[str]:
    """Return the values that `--cells` accepts."""
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.fpga import FAMILIES

    return [*PROCESSES, *FAMILIES]


CellsOption = Annotated[
    str,
    typer.Option(
        help="Target: the standard cells sky130 or asap7; or an FPGA family for quick counts: ice40, ecp5, nexus "
        "or xilinx.",
        autocompletion=names_of_cells,
    ),
]
ClockOption = Annotated[
    float | None,
    typer.Option(
        metavar="NS",
        help="Clock period to meet, in ns; exit code 1 if it cannot be met.",
        show_default="8 for sky130, 1 for asap7, 10 for --place",
    ),
]
WiresOption = Annotated[bool, typer.Option("--wires/--no-wires", help="Estimate wire loads from the fan-out of nets.")]
LibertyOption = Annotated[
    list[Path] | None,
    typer.Option(
        **InputFile,
        metavar="FILE",
        help="Liberty file of the cell library, plain or gzip, instead of the built-in tables. Repeatable.",
        show_default=False,
    ),
]
CornerOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE[,FILE...]",
        help="Liberty files of another corner at which to time the netlist as well. Repeatable.",
        show_default=False,
    ),
]
SramOption = Annotated[
    list[Path] | None,
    typer.Option(
        **InputFile,
        metavar="FILE",
        help="Liberty file of the SRAM macros for --storage memory. Repeatable.",
        show_default="published figures of the process's macros",
    ),
]
VerilogOption = Annotated[
    list[Path] | None,
    typer.Option(
        **InputFile,
        metavar="FILE",
        help="Synthesise this Verilog file instead of a unit. Repeatable.",
        show_default=False,
    ),
]
TopOption = Annotated[str | None, typer.Option(metavar="NAME", help="--verilog: the top module.", show_default=False)]
IncludeOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--include",
        "-I",
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="--verilog: folder to search for included files. Repeatable.",
        show_default=False,
    ),
]
DefineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--define",
        "-D",
        metavar="NAME[=VALUE]",
        help="--verilog: define a macro. Repeatable.",
        show_default=False,
    ),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-P",
        metavar="NAME=VALUE",
        help="--verilog: set a parameter of the top module. Repeatable.",
        show_default=False,
    ),
]
MappedStorageOption = Annotated[
    Storage | None, typer.Option(help=STORAGE_HELP, show_default=f"{STORAGE}; memory in an FPGA")
]
PlaceOption = Annotated[
    bool, typer.Option("--place", help="Place and route for an FPGA with nextpnr, for its clock and utilisation.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="--place: the device; 25k, 45k or 85k of ecp5, up5k of ice40, lifcl-40 of nexus.",
        show_default="the smallest of the family",
    ),
]
PlaceSeedOption = Annotated[int, typer.Option(min=0, help="--place: the seed.")]
NetlistsOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        callback=writable_folder,
        help="Write netlists and their longest paths, or bitstreams with --place, to this folder.",
    ),
]
ParetoOption = Annotated[
    bool,
    typer.Option(
        "--pareto",
        help="Synthesise the main forms at three clocks, then with 4 and 16 lanes (or up to --lanes); a rerun "
        "continues from finished results.",
    ),
]
MarkdownOption = Annotated[
    Path | None, typer.Option(metavar="PATH", callback=output_file, help="Write the table as Markdown.")
]


def check_options(command: typer.Context) -> None:
    """Reject values that `synth` does not support, and options that would be silently ignored.

    Raises:
        ValueError: there are some; the message says what to change.
    """
    from softmaxkit.flow.fpga import FAMILIES
    from softmaxkit.flow.routers import device_of

    chosen = command.params
    cells, clock = chosen["cells"], chosen["clock"]
    if cells not in names_of_cells():
        raise ValueError(f"--cells must be {any_of(names_of_cells())}, got {cells!r}")
    if clock is not None and not 0 < clock < 1e6:
        raise ValueError(f"--clock must be a period in ns, above 0 and below 1e6, got {clock:g}")
    if chosen["place"]:
        device_of(cells, chosen["device"])
        refuse(
            given(command, "liberty", "corner", "sram", "wires", "pareto", "markdown"),
            f"--cells {cells} with --place uses no cell library",
        )
    else:
        refuse(given(command, "device", "seed"), "only for use with --place")
    if cells in FAMILIES and not chosen["place"]:
        refuse(
            given(command, "liberty", "corner", "sram", "clock", "wires", "output", "pareto", "markdown"),
            f"--cells {cells} gives only counts, without cell library, timing or netlist; --place adds timing",
        )
    if chosen["verilog"]:
        if any(chosen[name] is not None for name in ("method", "spec", "model")):
            raise ValueError("--verilog takes the place of METHOD, --spec and --model; leave them out")
        refuse(given(command, *OF_UNITS), "a --verilog design has no such options")
    else:
        refuse(given(command, *OF_VERILOG), "only for use with --verilog")
        check_head_options(command, chosen["model"])
    if chosen["sram"] and not chosen["pareto"] and chosen["storage"] != "memory":
        refuse(given(command, "sram"), "--sram needs --storage memory")
    if chosen["pareto"]:
        refuse(given(command, *OF_PARETO, "corner", "output"), "--pareto chooses clocks and forms itself")
