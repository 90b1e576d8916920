"""`softmaxkit synth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.console import command_line, console, results_console, stages, write_record
from softmaxkit.cli.engines import (
    CHANNELS,
    COLUMNS,
    ENGINE,
    KEYS,
    ROWS,
    ChannelsOption,
    ColumnsOption,
    KeysOption,
    OfMethodOption,
    PipelineOption,
    RowsOption,
    chosen_engine,
    refuse_engine_options,
    unit_argument,
)
from softmaxkit.cli.options import (
    ALL,
    ContextOption,
    InputFile,
    JsonOption,
    SpecOption,
    any_of,
    given,
    refuse,
    writable_file,
    writable_folder,
)
from softmaxkit.cli.silicon_tables import cells_table, counts_table, placed_table, remarks, title_of
from softmaxkit.cli.units import (
    LANES,
    MAX_ROW,
    STORAGE,
    STORAGE_HELP,
    DepthOption,
    HeadOption,
    HeadTextOption,
    LanesOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    SetsOption,
    check_head_options,
    chosen_units,
    constants_option,
    kind_of,
    sizes,
)
from softmaxkit.methods import ALL_METHODS, method_class
from softmaxkit.methods.base.answers import Storage
from softmaxkit.methods.base.forms import Kind, forms_of
from softmaxkit.recipe import Recipe

if TYPE_CHECKING:
    from softmaxkit.methods.base.forms import Form
    from softmaxkit.studies.silicon import UnitToMap


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


def _names_of_cells() -> list[str]:
    """Return the values that `--cells` accepts."""
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.fpga import FAMILIES

    return [*PROCESSES, *FAMILIES]


def synth(
    command: typer.Context,
    method: Annotated[str | None, unit_argument(ALL)] = None,
    cells: Annotated[
        str,
        typer.Option(
            help="Target: the standard cells sky130 or asap7; or an FPGA family for quick counts: ice40, ecp5, nexus "
            "or xilinx.",
            autocompletion=_names_of_cells,
        ),
    ] = "sky130",
    lanes: LanesOption = LANES,
    clock: Annotated[
        float | None,
        typer.Option(
            metavar="NS",
            help="Clock period to meet, in ns; exit code 1 if it cannot be met.",
            show_default="8 for sky130, 1 for asap7, 10 for --place",
        ),
    ] = None,
    wires: Annotated[
        bool, typer.Option("--wires/--no-wires", help="Estimate wire loads from the fan-out of nets.")
    ] = True,
    liberty: Annotated[
        list[Path] | None,
        typer.Option(
            **InputFile,
            metavar="FILE",
            help="Liberty file of the cell library, plain or gzip, instead of the built-in tables. Repeatable.",
            show_default=False,
        ),
    ] = None,
    corner: Annotated[
        list[Path] | None,
        typer.Option(
            **InputFile,
            metavar="FILE",
            help="Liberty file of another corner at which to time the netlist as well. Repeatable.",
            show_default=False,
        ),
    ] = None,
    sram: Annotated[
        list[Path] | None,
        typer.Option(
            **InputFile,
            metavar="FILE",
            help="Liberty file of the SRAM macros for --storage memory. Repeatable.",
            show_default="published figures of the process's macros",
        ),
    ] = None,
    verilog: Annotated[
        list[Path] | None,
        typer.Option(
            **InputFile,
            metavar="FILE",
            help="Synthesise this Verilog file instead of a unit. Repeatable.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        str | None, typer.Option(metavar="NAME", help="--verilog: the top module.", show_default=False)
    ] = None,
    include: Annotated[
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
    ] = None,
    define: Annotated[
        list[str] | None,
        typer.Option(
            "--define",
            "-D",
            metavar="NAME[=VALUE]",
            help="--verilog: define a macro. Repeatable.",
            show_default=False,
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-P",
            metavar="NAME=VALUE",
            help="--verilog: set a parameter of the top module. Repeatable.",
            show_default=False,
        ),
    ] = None,
    max_row: MaxRowOption = MAX_ROW,
    depth: DepthOption = None,
    storage: Annotated[
        Storage | None, typer.Option(help=STORAGE_HELP, show_default=f"{STORAGE}; memory in an FPGA")
    ] = None,
    constants: Annotated[Kind | None, constants_option("the method's forms; baked with --model")] = None,
    sets: SetsOption = 1,
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    text: HeadTextOption = None,
    context: ContextOption = Recipe().context,
    place: Annotated[
        bool, typer.Option("--place", help="Place and route for an FPGA with nextpnr, for its clock and utilisation.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="--place: the device; 25k, 45k or 85k of ecp5, up5k of ice40, lifcl-40 of nexus.",
            show_default="the smallest of the family",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="--place: the seed.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            callback=writable_folder,
            help="Write netlists and their longest paths, or bitstreams with --place, to this folder.",
        ),
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto",
            help="Synthesise the main forms at three clocks, then with 4 and 16 lanes (or up to --lanes); a rerun "
            "continues from finished results.",
        ),
    ] = False,
    of_method: OfMethodOption = None,
    rows: RowsOption = ROWS,
    columns: ColumnsOption = COLUMNS,
    channels: ChannelsOption = CHANNELS,
    keys: KeysOption = KEYS,
    pipeline: PipelineOption = None,
    json: JsonOption = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="PATH", callback=writable_file, help="Write the table as Markdown.")
    ] = None,
) -> None:
    """Map hardware units to standard cells: area, clock, power and energy, with every output checked.

    Netlists are simulated on real attention scores and compared with the exact integers. The row buffer and loadable
    tables are listed separately. With --storage memory, rows are stored in SRAM, which has its own figures. With
    "engine" in place of METHOD, map an attention engine around the unit of --method, on random queries.
    """
    from softmaxkit.files import write_text
    from softmaxkit.report import silicon as as_markdown
    from softmaxkit.studies.hardware import of_kind, require_amaranth

    require_amaranth()
    from softmaxkit.flow.fpga import FAMILIES
    from softmaxkit.flow.place import TARGET, Placing
    from softmaxkit.flow.routers import device_of
    from softmaxkit.studies.engines import EngineOptions, synthesize_engines
    from softmaxkit.studies.pareto import LANES as PARETO_LANES
    from softmaxkit.studies.pareto import pareto as study
    from softmaxkit.studies.silicon import SynthesisOptions, Verilog, storage_in, synthesize_units, synthesize_verilog

    if cells not in _names_of_cells():
        raise ValueError(f"--cells must be {any_of(_names_of_cells())}, got {cells!r}")
    if clock is not None and not 0 < clock < 1e6:
        raise ValueError(f"--clock must be a period in ns, above 0 and below 1e6, got {clock:g}")
    if place:
        device_of(cells, device)
        refuse(
            given(command, "liberty", "corner", "sram", "wires", "pareto", "markdown"),
            f"--cells {cells} with --place uses no cell library",
        )
    else:
        refuse(given(command, "device", "seed"), "only for use with --place")
    if cells in FAMILIES and not place:
        refuse(
            given(command, "liberty", "corner", "sram", "clock", "wires", "output", "pareto", "markdown"),
            f"--cells {cells} gives only counts, without cell library, timing or netlist; --place adds timing",
        )
    if verilog:
        if any(each is not None for each in (method, spec, model)):
            raise ValueError("--verilog takes the place of METHOD, --spec and --model; leave them out")
        refuse(given(command, *OF_UNITS), "a --verilog design has no such options")
    else:
        refuse(given(command, *OF_VERILOG), "only for use with --verilog")
        check_head_options(command, model)
    if sram and not pareto and storage != "memory":
        refuse(given(command, "sram"), "--sram needs --storage memory")
    if pareto:
        refuse(given(command, *OF_PARETO, "corner", "output"), "--pareto chooses clocks and forms itself")
    if pareto and not given(command, "lanes"):
        lanes = PARETO_LANES[-1]
    kind = kind_of(constants, sets)
    where = storage_in(cells, storage)
    unit_sizes = sizes(lanes, max_row, depth, where, sets)
    placing = Placing(device, seed, 1e3 / clock if clock else TARGET) if place else None
    options = SynthesisOptions(
        unit_sizes, cells, clock, wires, liberty or [], corner or [], sram or [], output, placing
    )
    engine = None
    if method == ENGINE:
        loadable = constants == "loadable"
        sized = EngineOptions(rows, columns, channels, keys, pipeline, where or STORAGE, depth, loadable)
        engine = chosen_engine(command, of_method, spec, *NOT_OF_ENGINES), sized
    else:
        refuse_engine_options(command)
    units = []
    if not verilog and not pareto and engine is None:
        every = _units(method, spec, model, layer, head, text, context, unit_sizes, cells, kind)
        units = of_kind(every, lambda each: each.unit, kind)
    with stages() as stage:
        if verilog:
            design = Verilog(verilog, top, include or [], define or [], parameter or [])
            record = synthesize_verilog(design, options, command_line(), stage, console.print)
        elif engine is not None:
            record = synthesize_engines(*engine, options, command_line(), stage, console.print)
        elif pareto:
            record = study(_forms(method), options, command_line(), stage, console.print)
        else:
            record = synthesize_units(units, options, command_line(), stage, console.print)
    results = record["results"]
    screen = results_console(json)
    screen.print((placed_table if place else counts_table if cells in FAMILIES else cells_table)(results))
    for result in results:
        for name, mhz in result.get("fmax_at_corners_mhz", {}).items():
            screen.print(f"{title_of(result)} at {name}: {mhz:,.0f} MHz")
    for line in remarks(results):
        screen.print(line)
    write_record(record, json)
    if markdown is not None:
        write_text(markdown, "\n".join((as_markdown.operating_points if pareto else as_markdown.parts)(record)) + "\n")
        console.print(f"table: {markdown}")
    _raise_failures(results, clock)


def _units(
    method: str | None,
    spec: Path | None,
    model: str | None,
    layer: int,
    head: int,
    text: Path | None,
    context: int,
    unit_sizes: dict[str, Any],
    cells: str,
    kind: Kind | None,
) -> list[UnitToMap]:
    """Return the units to synthesise: all forms of the methods or of a spec, or the unit of a model's head."""
    from softmaxkit.studies.silicon import unit_of_head, units_of_forms

    if method is not None and spec is None and model is None:
        return units_of_forms(_of_sets(_forms(method), unit_sizes), unit_sizes, cells)
    if method is not None and method.lower() == ALL:
        raise ValueError(f"{ALL!r} selects the methods' own forms; leave it out with --spec or --model")
    ((chosen, trained),) = chosen_units(method, spec, model, layer, head, text, context)
    if trained is None:
        return units_of_forms(_of_sets(forms_of(chosen), unit_sizes), unit_sizes, cells)
    return [unit_of_head(trained, f"layer {layer}, head {head}", unit_sizes, cells, kind != "loadable")]


def _of_sets(forms: Sequence[Form], unit_sizes: Mapping[str, Any]) -> list[Form]:
    """Return the forms that the sizes allow: with several sets of constants, only those with loadable constants."""
    return [form for form in forms if not (form.baked and "sets" in unit_sizes)]


def _forms(method: str | None) -> list[Form]:
    """Return the forms of a method, or of all methods.

    Raises:
        ValueError: there is no METHOD, or it is unknown.
    """
    if method is None:
        raise ValueError(f"--pareto needs a METHOD, or {ALL}")
    classes = [method_class(name) for name in (ALL_METHODS if method.lower() == ALL else [method])]
    return [form for spec_class in classes for form in spec_class.forms()]


def _raise_failures(results: list[dict[str, Any]], clock: float | None) -> None:
    """Raise RuntimeError if a netlist is wrong, does not fit, or misses the clock period, in ns, of --clock."""
    if wrong := [result for result in results if result.get("faults")]:
        raise RuntimeError(f"netlists differ from the exact integers: {', '.join(map(title_of, wrong))}")
    if unplaced := [result["unplaced"] for result in results if "unplaced" in result]:
        raise RuntimeError(unplaced[0])
    if clock is not None and (late := [result for result in results if not result.get("clock_met", True)]):
        periods = ", ".join(
            f"{title_of(result)} {1e3 / result.get('fastest_mhz', result['fmax_mhz']):.2f} ns" for result in late
        )
        raise RuntimeError(f"a clock of {clock:g} ns cannot be met; the fastest netlists reach {periods}")
