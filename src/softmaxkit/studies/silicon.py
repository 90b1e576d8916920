"""What units cost in cells: the forms that `synth` maps, anybody's Verilog, and the method of a compared model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softmaxkit.files import write_text
from softmaxkit.flow.fpga import FAMILIES
from softmaxkit.methods.base.answers import Storage
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import KIND_TITLES, Form, Kind
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.hardware import TrainedHead, head_of_layer
from softmaxkit.studies.progress import Progress, Say, Stage

if TYPE_CHECKING:
    from softmaxkit.flow.figures import Synthesis
    from softmaxkit.flow.place import Placement, Placing
    from softmaxkit.flow.vectors import Rows
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.models.evaluation import RealScores


@dataclass(frozen=True)
class SynthesisOptions:
    """How to synthesise.

    Attributes:
        sizes: of every unit: `lanes`, `max_row`, `depth` and `storage`, as for `Spec.unit`. A unit that has no use for
            a memory gets latches in its place, or flip-flops in an FPGA.
        cells: a process with standard cells, or a family of FPGAs for quick counts.
        clock: period in ns to be met; None for the process's own.
        wires: estimate wires.
        liberty: Liberty files in place of the package's tables.
        corners: Liberty files of other corners, to time the netlist at as well.
        sram: Liberty files of the macros of which memories are made, in place of those published for the process.
        output: folder for netlists and longest paths, or for bitstreams; None writes none.
        placing: place and route in the FPGA in this way; None counts cells alone.
    """

    sizes: Mapping[str, Any]
    cells: str = "sky130"
    clock: float | None = None
    wires: bool = True
    liberty: Sequence[Path] = ()
    corners: Sequence[Path] = ()
    sram: Sequence[Path] = ()
    output: Path | None = None
    placing: Placing | None = None

    def inputs(self) -> dict[str, Any]:
        """Return what a record says of them."""
        return {"cells": self.cells, "wires": self.wires, "lanes": self.sizes["lanes"]}


class UnitToMap(NamedTuple):
    """A unit to synthesise.

    Attributes:
        title: which form of the method it is, in a few words.
        spec: the method.
        unit: the hardware.
        rows: of equal length, to run it with; None for the package's sample of real scores.
        constants: to run it with; None for those baked in, or the first example of the spec.
    """

    title: str
    spec: Spec
    unit: SoftmaxUnit
    rows: Rows | None = None
    constants: Constants | None = None


def units_of_forms(forms: Iterable[Form], sizes: Mapping[str, Any], cells: str = "sky130") -> list[UnitToMap]:
    """Return the units of some forms, to be mapped to some cells.

    Raises:
        ValueError: sizes that cannot be built.
    """
    return [UnitToMap(form.title, form.spec, form.unit(**_fitting(form.spec, sizes, cells))) for form in forms]


def unit_of_head(
    head: TrainedHead, title: str, sizes: Mapping[str, Any], cells: str = "sky130", baked: bool = True
) -> UnitToMap:
    """Return the unit of one head of a model, with its constants baked in or loaded, to run with its own longest rows.

    Raises:
        ValueError: sizes that cannot be built.
    """
    unit = head.spec.unit(constants=head.constants if baked else None, **_fitting(head.spec, sizes, cells))
    return UnitToMap(title, head.spec, unit, head.longest_rows(sizes["max_row"]), head.constants)


def storage_in(cells: str, storage: Storage | None) -> Storage | None:
    """Return where rows and tables wait: as asked, else in a memory of an FPGA; None where neither decides it.

    Raises:
        ValueError: latches in an FPGA, whose flow refuses them.
    """
    if cells in FAMILIES and storage == "latches":
        raise ValueError(
            f"an FPGA such as {cells} has no latches to hold words in; give --storage memory or flip-flops"
        )
    return storage or ("memory" if cells in FAMILIES else None)


def _fitting(spec: Spec, sizes: Mapping[str, Any], cells: str) -> dict[str, Any]:
    """Return sizes that a spec's unit takes: where it has no use for a memory, its tables are elsewhere."""
    unused = sizes["storage"] == "memory" and "memory" not in spec.storages
    return {**sizes, "storage": "flip-flops" if cells in FAMILIES else "latches"} if unused else dict(sizes)


def synthesize_units(
    units: Iterable[UnitToMap], options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> dict[str, Any]:
    """Map units to cells, compare every output of the netlists with golden, and return the record.

    Args:
        units: what to map.
        options: how.
        command: for the record.
        stage: shows progress.
        say: called with what is wrong, and with the files that are written.

    Returns:
        the record: a result for each unit, with its figures, and `faults` where it runs in standard cells.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: a library is damaged or lacks what is needed.
        OSError: a file cannot be read or written.
    """
    from softmaxkit.flow.cells.macros import macros_from_liberty
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.place import place_unit
    from softmaxkit.flow.sources import Source
    from softmaxkit.flow.synthesize import at_corners, synthesize
    from softmaxkit.flow.verilog import to_rtlil

    macros = macros_from_liberty(options.sram)
    results = []
    for title, spec, unit, rows, constants in units:
        name = f"{spec.method} {title or spec.variant}".rstrip()
        progress = stage(f"synthesise {name}")
        if unit.storage != options.sizes.get("storage", unit.storage):
            say(f"{name} keeps no rows, and so uses no {options.sizes['storage']}; its tables are in {unit.storage}")
        about = {"form": title, "lanes": unit.lanes, "max_row": unit.max_row, "depth": unit.depth}
        about |= {"storage": unit.storage, "latency_cycles": unit.latency(unit.max_row)}
        about |= {"sets": unit.sets} if unit.sets > 1 else {}
        if options.cells in FAMILIES:
            if options.placing is None:
                figures = count_cells(Source("unit", {"design.il": to_rtlil(unit, "unit")}), options.cells)
            else:
                figures = _placed(name, partial(place_unit, unit), options, say)
            results.append(make_result(spec, "hardware", **about, cells=options.cells, **figures))
            continue
        synthesis = synthesize(
            unit,
            options.cells,
            options.clock,
            options.wires,
            options.liberty,
            constants,
            rows,
            progress,
            macros=macros,
        )
        synthesis = at_corners(synthesis, options.corners)
        for fault in synthesis.faults:
            say(f"wrong: {fault}")
        results.append(make_result(spec, "hardware", **about, **synthesis.figures(), faults=list(synthesis.faults)))
        if options.output is not None:
            write_netlist(options.output, _file_name(name), synthesis, say)
    return make_record(command, 0, options.inputs(), results)


class Verilog(NamedTuple):
    """Anybody's Verilog, as `softmaxkit.flow.sources.read_verilog` takes it.

    Attributes:
        files: Verilog or SystemVerilog.
        top: name of the top module; None where there is one alone.
        include: folders of included files.
        defines: macros, "NAME" or "NAME=VALUE".
        parameters: of the top module, "NAME=VALUE".
    """

    files: Sequence[Path]
    top: str | None = None
    include: Sequence[Path] = ()
    defines: Sequence[str] = ()
    parameters: Sequence[str] = ()


def synthesize_verilog(
    verilog: Verilog, options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> dict[str, Any]:
    """Map anybody's Verilog to cells, for area and clock; there are no scores to run it with.

    Args:
        verilog: the design.
        options: how; `sizes` do not matter.
        command: for the record.
        stage: shows progress.
        say: called with the files that are written.

    Returns:
        the record, with one result, whose method is the name of the top module.

    Raises:
        ToolError, LibertyError, OSError: as `synthesize_units`.
        ValueError: as `read_verilog`.
    """
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.mapping import map_design
    from softmaxkit.flow.place import place_verilog
    from softmaxkit.flow.sources import read_verilog
    from softmaxkit.flow.synthesize import at_corners, chosen_library, fit

    source = read_verilog(*verilog)
    cells = options.cells
    about = {"method": source.top, "variant": "", "mode": "hardware", "form": "", "cells": cells}
    stage(f"synthesise {source.top}")
    if cells in FAMILIES:
        placed = options.placing is not None
        figures = (
            _placed(source.top, partial(place_verilog, source), options, say) if placed else count_cells(source, cells)
        )
        return make_record(command, 0, options.inputs(), [about | figures])
    library = chosen_library(cells, options.liberty, options.wires)
    period = options.clock if options.clock is not None else PROCESSES[cells].clock
    mapped = map_design(source, library, period)
    if not any(group.cell.inputs for group in mapped[0].netlist.groups):
        raise ValueError(f"no gates are left of {source.top}: its outputs are constant, or its inputs as they are")
    synthesis = fit(mapped, period, library.name if options.liberty else cells)
    synthesis = at_corners(synthesis, options.corners)
    if options.output is not None:
        write_netlist(options.output, source.top, synthesis, say)
    return make_record(command, 0, options.inputs(), [about | synthesis.figures()])


def _placed(
    name: str, place: Callable[[str, Placing], Placement], options: SynthesisOptions, say: Say
) -> dict[str, Any]:
    """Return the figures of a placed design, or why it does not fit; writes its bitstream."""
    from softmaxkit.flow.place import DoesNotFit

    assert options.placing is not None
    try:
        placement = place(options.cells, options.placing)
    except DoesNotFit as error:
        say(f"{name}: {error}")
        return {"unplaced": str(error)}
    if options.output is not None and placement.bitstream is not None:
        path = options.output / f"{_file_name(name)}.bit"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(placement.bitstream)
        say(f"bitstream: {path}")
    return placement.figures()


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def write_netlist(folder: Path, name: str, synthesis: Synthesis, say: Say) -> None:
    """Write a netlist, its cells for a timing analyser, its longest path and that of the smallest hold slack."""
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


def cost_of_scores(scores: Sequence[RealScores], progress: Progress | None = None) -> dict[str, Any]:
    """Synthesise the unit of a method in a model: one lane, rows of up to 256 or the model's.

    It runs with the constants of one of the model's heads, and on that head's scores where these fill rows of 256.

    Args:
        scores: of every layer; the head is the first of the middle one.
        progress: called with steps done and all.

    Returns:
        Figures for the record, of the first of the kinds that the spec has compared; those of the others in `forms`.

    Raises:
        ToolError: a tool is missing or failed.
        RuntimeError: the netlist differs from its integers.
    """
    from softmaxkit.flow.figures import ROW

    middle = len(scores) // 2
    head = head_of_layer(scores[middle], middle, 0)
    sizes = {"lanes": 1, "max_row": max(ROW, int(head.rows.lengths.max())), "storage": "memory"}
    kinds = head.spec.compared_kinds
    costs = [
        _cost_of_head(head, kind, sizes, partial(_in_all, progress, n, len(kinds))) for n, kind in enumerate(kinds)
    ]
    others = [{"form": f"constants {KIND_TITLES[kind]}", **cost} for kind, cost in zip(kinds, costs, strict=True)][1:]
    return costs[0] | ({"forms": others} if others else {})


def _in_all(progress: Progress | None, number: int, pieces: int, done: int, steps: int) -> None:
    """Tell of steps done in one of several equal pieces of work."""
    if progress is not None:
        progress(number * steps + done, pieces * steps)


def _cost_of_head(head: TrainedHead, kind: Kind, sizes: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the figures of the unit of a head."""
    from softmaxkit.flow.figures import ROW
    from softmaxkit.flow.synthesize import synthesize

    spec = head.spec.for_hardware()
    unit = spec.unit(constants=head.constants if kind == "baked" else None, **_fitting(spec, sizes, "sky130"))
    rows = head.longest_rows(ROW)
    fills = int(rows.lengths[0]) == ROW
    synthesis = synthesize(unit, constants=head.constants, rows=rows if fills else None, progress=progress)
    if synthesis.faults:
        faults = "; ".join(synthesis.faults)
        raise RuntimeError(f"the netlist of {head.spec.method} differs from its integers: {faults}")
    figures = synthesis.figures()
    del figures["longest_path"], figures["instances_by_cell"]
    figures["netlist_outputs_verified"] = figures.pop("compared") - figures.pop("mismatches")
    about = {"lanes": unit.lanes, "max_row": unit.max_row, "latency_cycles": unit.latency(synthesis.row)}
    return figures | about
