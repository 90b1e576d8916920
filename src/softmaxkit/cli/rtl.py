"""`softmaxkit rtl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import command_line, note, stages, write_record
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
    ContextOption,
    JsonOption,
    SpecOption,
    output_folder,
)
from softmaxkit.cli.units import (
    LANES,
    MAX_ROW,
    STORAGE,
    DepthOption,
    HeadsOption,
    HeadTextOption,
    LanesOption,
    LayersOption,
    MaxRowOption,
    ModelOption,
    SetsOption,
    StorageOption,
    check_head_options,
    chosen_units,
    constants_option,
    kind_of,
    sizes,
)
from softmaxkit.methods.base.forms import Kind
from softmaxkit.recipe import Recipe

NOT_OF_ENGINES = (
    *("sram", "tkeep", "row_length", "status", "axi_lite", "read_back", "tags", "register_slice", "sets"),
)
"""Options that do not apply to an engine, which is written without macros and shell."""


def rtl(
    command: typer.Context,
    method: Annotated[str | None, unit_argument()] = None,
    output: Annotated[Path, output_folder("Folder for the unit; several units get a subfolder each.")] = Path(
        "softmaxkit-rtl"
    ),
    lanes: LanesOption = LANES,
    max_row: MaxRowOption = MAX_ROW,
    depth: DepthOption = None,
    storage: StorageOption = STORAGE,
    constants: Annotated[Kind | None, constants_option("baked with --model, loadable without")] = None,
    sets: SetsOption = 1,
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayersOption = 0,
    head: HeadsOption = 0,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the top module; a prefix if there are several.", show_default="softmaxkit_METHOD"),
    ] = None,
    clock: Annotated[
        float, typer.Option(metavar="NS", help="Clock period in ns, for the timing constraints and the test bench.")
    ] = 5.0,
    uncertainty: Annotated[float, typer.Option(metavar="NS", help="Constraints: clock uncertainty in ns.")] = 0.0,
    input_delay: Annotated[
        float | None,
        typer.Option(metavar="NS", help="Constraints: input delay in ns.", show_default="20% of the clock"),
    ] = None,
    output_delay: Annotated[
        float | None,
        typer.Option(metavar="NS", help="Constraints: output delay in ns.", show_default="20% of the clock"),
    ] = None,
    driving_cell: Annotated[
        str,
        typer.Option(
            metavar="CELL",
            help="Constraints: library cell that drives the inputs.",
            show_default="none, but a slew of 0.05 ns",
        ),
    ] = "",
    load: Annotated[float, typer.Option(metavar="PF", help="Constraints: load of the outputs in pF.")] = 0.01,
    tkeep: Annotated[
        bool, typer.Option("--tkeep", help="Shell: tkeep on both streams, to mark bytes that are not part of a row.")
    ] = False,
    row_length: Annotated[
        bool, typer.Option("--row-length", help="Shell: set the length and causal offset of rows, for use with a DMA.")
    ] = False,
    status: Annotated[
        bool,
        typer.Option(
            "--status", help="Shell: truncate rows that are too long; report errors, busy, counts, interrupt."
        ),
    ] = False,
    axi_lite: Annotated[
        bool, typer.Option("--axi-lite", help="Shell: registers and constants over AXI4-Lite, and a SystemRDL file.")
    ] = False,
    read_back: Annotated[
        bool, typer.Option("--read-back", help="Shell: make loadable constants readable over AXI4-Lite, from a copy.")
    ] = False,
    tags: Annotated[
        int,
        typer.Option(help="Shell: number of row tags (tid); with --axi-lite, constants too.", show_default="none"),
    ] = 0,
    register_slice: Annotated[
        str,
        typer.Option(
            metavar="STREAM",
            help="Shell: a full register slice before the unit (scores), after it (results), or both.",
            show_default="none",
        ),
    ] = "",
    sram: Annotated[
        str | None,
        typer.Option(
            metavar="MACRO",
            help="Build memories of SRAM macros: sky130, or NAME:WIDTHxDEPTH, or with /BITS per write-mask bit.",
        ),
    ] = None,
    text: HeadTextOption = None,
    context: ContextOption = Recipe().context,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace units in the output folder.")] = False,
    of_method: OfMethodOption = None,
    rows: RowsOption = ROWS,
    columns: ColumnsOption = COLUMNS,
    channels: ChannelsOption = CHANNELS,
    keys: KeysOption = KEYS,
    pipeline: PipelineOption = None,
    json: JsonOption = None,
) -> None:
    """Write a method's hardware unit as Verilog, with a test bench, test vectors, an AXI-Stream wrapper and a README.

    With "engine" in place of METHOD, write an attention engine around the unit of --method, without a wrapper.
    """
    from softmaxkit.studies.hardware import require_amaranth

    require_amaranth()
    from softmaxkit.flow.constraints import Constraints
    from softmaxkit.flow.export import check_export_folder
    from softmaxkit.shell.options import ShellOptions
    from softmaxkit.studies.engines import EngineOptions, write_engine
    from softmaxkit.studies.rtl import RtlOptions, write_rtl

    constraints = Constraints(clock, uncertainty, input_delay, output_delay, driving_cell, load=load)
    if method == ENGINE:
        chosen_method = chosen_engine(command, of_method, spec, *NOT_OF_ENGINES)
        engine = EngineOptions(rows, columns, channels, keys, pipeline, storage, depth, constants == "loadable")
        check_export_folder(output, overwrite)
        with stages() as stage:
            record = write_engine(chosen_method, engine, output, name, constraints, command_line(), stage)
        note(f"engine with {chosen_method.method}: {output}; begin with {output / 'README.md'}")
        write_record(record, json)
        return
    refuse_engine_options(command)
    check_head_options(command, model)
    check_export_folder(output, overwrite)
    shell = ShellOptions(tkeep, row_length, status, axi_lite, read_back, tags, register_slice)
    options = RtlOptions(
        sizes(lanes, max_row, depth, storage, sets),
        output,
        kind_of(constants, sets),
        name,
        constraints,
        overwrite,
        shell if shell.any else None,
        sram,
    )
    chosen = chosen_units(method, spec, model, layer, head, text, context, options.rows)
    with stages() as stage:
        record = write_rtl(chosen, options, command_line(), stage, note)
    first = Path(record["results"][0]["folder"])
    about = f"{chosen[0][0].method}, {lanes} lane{'s' if lanes > 1 else ''}"
    note(f"{about}: {output}; begin with {first / 'README.md'}")
    write_record(record, json)
