"""`softmaxkit synth`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    SpecOption,
    TextOption,
    command_line,
    console,
    results_console,
    stages,
    write_record,
)
from softmaxkit.cli.silicon_tables import cells_table, counts_table, title_of
from softmaxkit.cli.units import (
    DepthOption,
    HeadOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    StorageOption,
    chosen_unit,
    sizes,
)
from softmaxkit.recipe import Recipe
from softmaxkit.record import make_record, make_result
from softmaxkit.methods import METHODS

if TYPE_CHECKING:
    from softmaxkit.flow.synthesize import Synthesis
    from softmaxkit.flow.vectors import Rows
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.methods.base.spec import Spec


def synth(
    method: Annotated[
        str | None, typer.Argument(help="exact, consmax, softermax, exaq, or all.", show_default=False)
    ] = None,
    cells: Annotated[
        str, typer.Option(help="sky130 or asap7; or, for quick counts, an FPGA: ice40, ecp5 or xilinx.")
    ] = "sky130",
    lanes: Annotated[int, typer.Option(help="Scores a cycle.")] = 1,
    clock: Annotated[
        float | None,
        typer.Option(metavar="NS", help="Clock period to be met, in ns.", show_default="8 for sky130, 1 for asap7"),
    ] = None,
    wires: Annotated[
        bool, typer.Option("--wires/--no-wires", help="Estimate wires, by the pins that a net drives.")
    ] = True,
    liberty: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Liberty file of the library, plain or gzip, in place of the package's tables; may be given again.",
            show_default=False,
        ),
    ] = None,
    corner: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Liberty file of another corner, to time the netlist at too; may be given again.",
            show_default=False,
        ),
    ] = None,
    verilog: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Anybody's Verilog instead of a unit; may be given again.", show_default=False
        ),
    ] = None,
    top: Annotated[
        str | None, typer.Option(metavar="NAME", help="Top module of --verilog.", show_default=False)
    ] = None,
    max_row: MaxRowOption = 256,
    depth: DepthOption = None,
    storage: StorageOption = "latches",
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    text: TextOption = None,
    context: ContextOption = Recipe().context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write netlists and longest paths there.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Map hardware units to standard cells: area, clock, power and energy, every output compared with the integers.

    Netlists run on real attention scores; rows that wait are counted apart, and so are loadable tables.
    """
    import softmaxkit.blocks  # noqa: F401  # says what is missing, if anything is
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.fpga import FAMILIES

    if cells not in PROCESSES and cells not in FAMILIES:
        raise ValueError(f"--cells is {', '.join([*PROCESSES, *FAMILIES])}, not {cells!r}")
    if clock is not None and not 0 < clock < 1e6:
        raise ValueError(f"--clock is a period in ns, more than 0, not {clock:g}")
    if liberty and cells in FAMILIES:
        raise ValueError(f"--liberty is for standard cells; leave it out with --cells {cells}")
    if verilog:
        if method is not None or spec is not None or model is not None:
            raise ValueError("--verilog takes the place of METHOD, --spec and --model; give one of them")
        results = [_foreign(verilog, top, cells, clock, wires, liberty or [], corner or [], output)]
    else:
        if top is not None:
            raise ValueError("--top is for --verilog; units have a top module of their own")
        units = _units(method, spec, model, layer, head, text, context, sizes(lanes, max_row, depth, storage))
        results = _own(units, cells, clock, wires, liberty or [], corner or [], output)
    table = counts_table if cells in FAMILIES else cells_table
    screen = results_console(json)
    screen.print(table(results))
    for result in results:
        for name, reached in result.get("fmax_at_corners_mhz", {}).items():
            screen.print(f"{title_of(result)} at {name}: {reached:,.0f} MHz")
    write_record(make_record(command_line(), 0, {"cells": cells, "wires": wires, "lanes": lanes}, results), json)
    if wrong := [result for result in results if result.get("faults")]:
        raise RuntimeError(f"netlists differ from the integers: {', '.join(title_of(each) for each in wrong)}")
    if clock is not None and (late := [each for each in results if not each.get("clock_met", True)]):
        reached = ", ".join(f"{title_of(each)} {1e3 / each['fastest_mhz']:.2f} ns" for each in late)
        raise RuntimeError(f"a clock of {clock:g} ns cannot be met; what can: {reached}")


def _units(
    method: str | None,
    spec: Path | None,
    model: str | None,
    layer: int,
    head: int,
    text: Path | None,
    context: int,
    size: dict[str, Any],
) -> list[tuple[str, Spec, SoftmaxUnit, Rows | None]]:
    """Return what is to be synthesised: title, spec, unit, and rows to run, None for the sample."""
    from softmaxkit.studies.silicon import FORMS, forms_of, longest_rows

    if method is not None and spec is None and model is None:
        if method.lower() != "all" and method.lower() not in METHODS:
            chosen_unit(method, None, None, layer, head, text, context)
        names = METHODS if method.lower() == "all" else [method.lower()]
        return [(form.title, form.spec, _sized(form, size), None) for name in names for form in FORMS[name]]
    if method == "all":
        raise ValueError("'all' stands for the methods' own forms; leave it out with --spec or --model")
    chosen, trained = chosen_unit(method, spec, model, layer, head, text, context)
    if trained is None:
        return [(form.title, form.spec, _sized(form, size), None) for form in forms_of(chosen)]
    unit = chosen.unit(constants=trained.constants, **_storage(chosen, size))
    return [(f"layer {layer}, head {head}", chosen, unit, longest_rows(trained, size["max_row"]))]


def _sized(form: Any, size: dict[str, Any]) -> SoftmaxUnit:
    unit: SoftmaxUnit = form.unit(**_storage(form.spec, size))
    return unit


def _storage(spec: Spec, size: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes; ConSmax has no rows for a memory, and its tables are latches then."""
    return size | {"storage": "latches"} if spec.method == "consmax" and size["storage"] == "memory" else size


def _own(
    units: list[tuple[str, Spec, SoftmaxUnit, Rows | None]],
    cells: str,
    clock: float | None,
    wires: bool,
    liberty: list[Path],
    corners: list[Path],
    output: Path | None,
) -> list[dict[str, Any]]:
    """Synthesise units."""
    from softmaxkit.flow.fpga import FAMILIES, count_cells
    from softmaxkit.flow.mapping import Source
    from softmaxkit.flow.synthesize import at_corners, synthesize
    from softmaxkit.flow.verilog import to_rtlil

    results = []
    with stages() as stage:
        for title, spec, unit, rows in units:
            name = " ".join(filter(None, (spec.method, title or spec.variant)))
            progress = stage(f"synthesise {name}")
            about = {"form": title, "lanes": unit.lanes, "max_row": unit.max_row, "depth": unit.depth}
            about |= {"storage": unit.storage, "latency_cycles": unit.latency(unit.max_row)}
            if cells in FAMILIES:
                found = count_cells(Source("unit", {"design.il": to_rtlil(unit, "unit")}), cells)
                results.append(make_result(spec, "hardware", **about, cells=cells, **found))
                continue
            done = at_corners(synthesize(unit, cells, clock, wires, liberty, rows=rows, progress=progress), corners)
            for fault in done.faults:
                console.print(f"wrong: {fault}")
            results.append(make_result(spec, "hardware", **about, **done.figures(), faults=list(done.faults)))
            if output is not None:
                _write(output, re.sub(r"\W+", "_", name).strip("_"), done)
    return results


def _foreign(
    files: list[Path],
    top: str | None,
    cells: str,
    clock: float | None,
    wires: bool,
    liberty: list[Path],
    corners: list[Path],
    output: Path | None,
) -> dict[str, Any]:
    """Synthesise anybody's Verilog: area and clock; there are no scores to run it with."""
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.fpga import FAMILIES, count_cells
    from softmaxkit.flow.mapping import map_design, read_verilog
    from softmaxkit.flow.synthesize import at_corners, chosen_library, fit

    source = read_verilog(files, top)
    about = {"method": source.top, "variant": "", "mode": "hardware", "form": "", "cells": cells}
    with stages() as stage:
        stage(f"synthesise {source.top}")
        if cells in FAMILIES:
            return about | count_cells(source, cells)
        library = chosen_library(cells, liberty, wires)
        period = clock if clock is not None else PROCESSES[cells].clock
        done = fit(map_design(source, library, period), period, library.name if liberty else cells)
        done = at_corners(done, corners)
    if output is not None:
        _write(output, source.top, done)
    return about | done.figures()


def _write(folder: Path, name: str, done: Synthesis) -> None:
    from softmaxkit.files import write_text

    write_text(folder / f"{name}.v", done.mapped.to_verilog())
    lines = [f"{step.time:9.4f} ns  {step.edge:4}  {step.cell:32} {step.instance}" for step in done.timing.path]
    write_text(folder / f"{name}.path.txt", "\n".join(lines) + "\n")
    console.print(f"netlist: {folder / name}.v")
