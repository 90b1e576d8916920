"""`softmaxkit synth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.console import command_line, note, reported, stages
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
    JsonOption,
    SpecOption,
    given,
)
from softmaxkit.cli.silicon_tables import cells_table, counts_table, placed_table, remarks, title_of
from softmaxkit.cli.synth_options import (
    NOT_OF_ENGINES,
    CellsOption,
    ClockOption,
    CornerOption,
    DefineOption,
    DeviceOption,
    IncludeOption,
    LibertyOption,
    MappedStorageOption,
    MarkdownOption,
    NetlistsOption,
    ParameterOption,
    ParetoOption,
    PlaceOption,
    PlaceSeedOption,
    SramOption,
    TopOption,
    VerilogOption,
    WiresOption,
    check_options,
)
from softmaxkit.cli.units import (
    LANES,
    MAX_ROW,
    STORAGE,
    DepthOption,
    HeadOption,
    HeadTextOption,
    LanesOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    SetsOption,
    chosen_units,
    constants_option,
    kind_of,
    sizes,
)
from softmaxkit.methods import ALL_METHODS, method_class
from softmaxkit.methods.base.forms import Kind, forms_of
from softmaxkit.recipe import Recipe

if TYPE_CHECKING:
    from softmaxkit.methods.base.forms import Form
    from softmaxkit.studies.silicon import UnitToMap


def synth(
    command: typer.Context,
    method: Annotated[str | None, unit_argument(ALL)] = None,
    cells: CellsOption = "sky130",
    lanes: LanesOption = LANES,
    clock: ClockOption = None,
    wires: WiresOption = True,
    liberty: LibertyOption = None,
    corner: CornerOption = None,
    sram: SramOption = None,
    verilog: VerilogOption = None,
    top: TopOption = None,
    include: IncludeOption = None,
    define: DefineOption = None,
    parameter: ParameterOption = None,
    max_row: MaxRowOption = MAX_ROW,
    depth: DepthOption = None,
    storage: MappedStorageOption = None,
    constants: Annotated[Kind | None, constants_option("the method's forms; baked with --model")] = None,
    sets: SetsOption = 1,
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    text: HeadTextOption = None,
    context: ContextOption = Recipe().context,
    place: PlaceOption = False,
    device: DeviceOption = None,
    seed: PlaceSeedOption = 1,
    output: NetlistsOption = None,
    pareto: ParetoOption = False,
    of_method: OfMethodOption = None,
    rows: RowsOption = ROWS,
    columns: ColumnsOption = COLUMNS,
    channels: ChannelsOption = CHANNELS,
    keys: KeysOption = KEYS,
    pipeline: PipelineOption = None,
    json: JsonOption = None,
    markdown: MarkdownOption = None,
) -> None:
    """Map hardware units to standard cells: area, clock, power and energy, with every output checked.

    Netlists are simulated on real attention scores and compared with the exact integers. The row buffer and loadable
    tables are listed separately. With --storage memory, rows are stored in SRAM, which has its own figures. With
    "engine" in place of METHOD, map an attention engine around the unit of --method, on random queries.
    """
    from softmaxkit.report import silicon as as_markdown
    from softmaxkit.studies.hardware import of_kind, require_amaranth

    require_amaranth()
    from softmaxkit.flow.fpga import FAMILIES
    from softmaxkit.flow.place import TARGET, Placing
    from softmaxkit.studies.engines import EngineOptions, synthesize_engines
    from softmaxkit.studies.pareto import LANES as PARETO_LANES
    from softmaxkit.studies.pareto import pareto as study
    from softmaxkit.studies.silicon import SynthesisOptions, Verilog, storage_in, synthesize_units, synthesize_verilog

    check_options(command)
    if pareto and not given(command, "lanes"):
        lanes = PARETO_LANES[-1]
    kind = kind_of(constants, sets)
    where = storage_in(cells, storage)
    unit_sizes = sizes(lanes, max_row, depth, where, sets)
    placing = Placing(device, seed, 1e3 / clock if clock else TARGET) if place else None
    corners = [[Path(file) for file in str(files).split(",")] for files in corner or []]
    options = SynthesisOptions(unit_sizes, cells, clock, wires, liberty or [], corners, sram or [], output, placing)
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
        units = of_kind(every, lambda unit_to_map: unit_to_map.unit, kind)
    with stages() as stage:
        if verilog:
            design = Verilog(verilog, top, include or [], define or [], parameter or [])
            record = synthesize_verilog(design, options, command_line(), stage, note)
        elif engine is not None:
            record = synthesize_engines(*engine, options, command_line(), stage, note)
        elif pareto:
            record = study(_forms(method), options, command_line(), stage, note)
        else:
            record = synthesize_units(units, options, command_line(), stage, note)
    results = record["results"]
    lines = as_markdown.operating_points if pareto else as_markdown.parts
    with reported(record, json, (markdown, lambda record: "\n".join(lines(record)) + "\n")) as screen:
        screen.print((placed_table if place else counts_table if cells in FAMILIES else cells_table)(results))
        for result in results:
            for name, mhz in result.get("fmax_at_corners_mhz", {}).items():
                screen.print(f"{title_of(result)} at {name}: {mhz:,.0f} MHz")
        for line in remarks(results):
            screen.print(line)
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
