"""Synthesis of units and of user-supplied Verilog: area, clock, power and energy in cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softmaxkit.flow.fpga import FAMILIES
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Form
from softmaxkit.methods.base.metadata import Storage
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.hardware import TrainedHead
from softmaxkit.studies.netlists import file_name, placed_figures, write_netlist
from softmaxkit.studies.progress import Say, Stage

if TYPE_CHECKING:
    from softmaxkit.flow.place import Placing
    from softmaxkit.flow.vectors import Rows
    from softmaxkit.methods.base.unit import SoftmaxUnit


@dataclass(frozen=True)
class SynthesisOptions:
    """How to synthesise.

    Attributes:
        sizes: `lanes`, `max_row`, `depth` and `storage` of every unit, as for `Spec.unit`. With storage "memory", a
            unit that buffers no rows gets latches instead, or flip-flops in an FPGA.
        cells: a process with standard cells, or a family of FPGAs, for which cells are only counted by default.
        clock: target clock period in ns; None for the process's default.
        wires: estimate wires.
        liberty: Liberty files that replace the package's tables.
        corners: the Liberty files of each other corner, at which the netlist is timed as well.
        sram: Liberty files of memory macros, which replace those published for the process.
        output: folder for netlists and longest paths, or for bitstreams; None writes none.
        placing: how to place and route in the FPGA; None only counts cells.
    """

    sizes: Mapping[str, Any]
    cells: str = "sky130"
    clock: float | None = None
    wires: bool = True
    liberty: Sequence[Path] = ()
    corners: Sequence[Sequence[Path]] = ()
    sram: Sequence[Path] = ()
    output: Path | None = None
    placing: Placing | None = None

    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the record."""
        return {"cells": self.cells, "wires": self.wires, "lanes": self.sizes["lanes"]}


class UnitToMap(NamedTuple):
    """A unit to synthesise.

    Attributes:
        title: short name of this form of the method.
        spec: the method.
        unit: the hardware.
        rows: stimulus, rows of equal length; None for the package's sample of real scores.
        constants: constants to run with; None for those baked in, or the first example of the spec.
    """

    title: str
    spec: Spec
    unit: SoftmaxUnit
    rows: Rows | None = None
    constants: Constants | None = None


def units_of_forms(forms: Iterable[Form], sizes: Mapping[str, Any], cells: str = "sky130") -> list[UnitToMap]:
    """Return the units of some forms, to be mapped to some cells.

    Raises:
        ValueError: the sizes cannot be built.
    """
    return [UnitToMap(form.title, form.spec, form.unit(**supported_sizes(form.spec, sizes, cells))) for form in forms]


def unit_of_head(
    head: TrainedHead, title: str, sizes: Mapping[str, Any], cells: str = "sky130", baked: bool = True
) -> UnitToMap:
    """Return the unit of a model's head, with its constants baked in or loadable, to run with the head's longest rows.

    Raises:
        ValueError: the sizes cannot be built.
    """
    unit = head.spec.unit(constants=head.constants if baked else None, **supported_sizes(head.spec, sizes, cells))
    return UnitToMap(title, head.spec, unit, head.longest_rows(sizes["max_row"]), head.constants)


def storage_in(cells: str, storage: Storage | None) -> Storage | None:
    """Return the storage of rows and tables: `storage` if set, "memory" for an FPGA, else None.

    Raises:
        ValueError: latches in an FPGA, which its flow does not support.
    """
    if cells in FAMILIES and storage == "latches":
        raise ValueError(
            f"the flow for FPGAs such as {cells} does not store words in latches; give --storage memory or flip-flops"
        )
    return storage or ("memory" if cells in FAMILIES else None)


def supported_sizes(spec: Spec, sizes: Mapping[str, Any], cells: str) -> dict[str, Any]:
    """Return sizes that a spec's unit supports: if it cannot use a memory, other storage for its tables."""
    unused = sizes["storage"] == "memory" and "memory" not in spec.storages
    return {**sizes, "storage": "flip-flops" if cells in FAMILIES else "latches"} if unused else dict(sizes)


def synthesize_units(
    units: Iterable[UnitToMap], options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> dict[str, Any]:
    """Map units to cells, compare every output of the netlists with golden, and return the record.

    Args:
        units: the units to map.
        options: how to synthesise.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each error found and each file written.

    Returns:
        The record: a result for each unit, with its figures, and in standard cells also `faults`.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: a library is damaged or incomplete.
        OSError: a file cannot be read or written.
    """
    from softmaxkit.flow.cells.macros import macros_from_liberty
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.place import place_unit
    from softmaxkit.flow.sources import Source
    from softmaxkit.flow.synthesize import synthesize
    from softmaxkit.flow.verilog import to_rtlil

    macros = macros_from_liberty(options.sram)
    results = []
    for title, spec, unit, rows, constants in units:
        name = f"{spec.method} {title or spec.variant}".rstrip()
        progress = stage(f"synthesise {name}")
        if unit.storage != options.sizes.get("storage", unit.storage):
            say(f"{name} buffers no rows, so it uses no {options.sizes['storage']}; its tables are in {unit.storage}")
        about = {"form": title, "lanes": unit.lanes, "max_row": unit.max_row, "depth": unit.depth}
        about |= {"storage": unit.storage, "latency_cycles": unit.latency(unit.max_row)}
        about |= {"sets": unit.sets} if unit.sets > 1 else {}
        if options.cells in FAMILIES:
            if options.placing is None:
                figures = count_cells(Source("unit", {"design.il": to_rtlil(unit, "unit")}), options.cells)
            else:
                figures = placed_figures(name, partial(place_unit, unit), options, say)
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
            corners=options.corners,
        )
        for fault in synthesis.faults:
            say(f"wrong: {fault}")
        results.append(make_result(spec, "hardware", **about, **synthesis.figures(), faults=list(synthesis.faults)))
        if options.output is not None:
            write_netlist(options.output, file_name(name), synthesis, say)
    return make_record(command, 0, options.inputs(), results)


class Verilog(NamedTuple):
    """User-supplied Verilog: the arguments of `softmaxkit.flow.sources.read_verilog`.

    Attributes:
        files: Verilog or SystemVerilog files.
        top: name of the top module; None if there is only one candidate.
        include: folders of included files.
        defines: macros, "NAME" or "NAME=VALUE".
        parameters: parameters of the top module, "NAME=VALUE".
    """

    files: Sequence[Path]
    top: str | None = None
    include: Sequence[Path] = ()
    defines: Sequence[str] = ()
    parameters: Sequence[str] = ()


def synthesize_verilog(
    verilog: Verilog, options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> dict[str, Any]:
    """Map user-supplied Verilog to cells, for area and clock; without stimulus there is no energy.

    Args:
        verilog: the design.
        options: how to synthesise; its `sizes` are ignored.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each file written.

    Returns:
        The record, with one result, whose method is the name of the top module.

    Raises:
        ToolError, LibertyError, OSError: as `synthesize_units`.
        ValueError: as `read_verilog`.
    """
    from softmaxkit.flow.cells.processes import PROCESSES
    from softmaxkit.flow.corners import read_corners
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.mapping import map_design
    from softmaxkit.flow.place import place_verilog
    from softmaxkit.flow.sources import read_verilog
    from softmaxkit.flow.synthesize import chosen_library, fit

    source = read_verilog(*verilog)
    cells = options.cells
    about = {"method": source.top, "variant": "", "mode": "hardware", "form": "", "cells": cells}
    stage(f"synthesise {source.top}")
    if cells in FAMILIES:
        placed = options.placing is not None
        place = partial(place_verilog, source)
        figures = placed_figures(source.top, place, options, say) if placed else count_cells(source, cells)
        return make_record(command, 0, options.inputs(), [about | figures])
    library = chosen_library(cells, options.liberty, options.wires)
    corners = read_corners(options.corners, library)
    period = options.clock if options.clock is not None else PROCESSES[cells].clock
    mapped = map_design(source, library, period)
    if not any(group.cell.inputs for group in mapped[0].netlist.groups):
        raise ValueError(f"{source.top} has no gates: its outputs are constant or directly connected to its inputs")
    synthesis = fit(mapped, period, library.name if options.liberty else cells, corners=corners)
    if options.output is not None:
        write_netlist(options.output, source.top, synthesis, say)
    return make_record(command, 0, options.inputs(), [about | synthesis.figures()])
