"""Attention engines: which of them, their verification, their Verilog, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.flow.fpga import FAMILIES
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Say, Stage
from softmaxkit.studies.silicon import SynthesisOptions, write_netlist
from softmaxkit.studies.verification import report

if TYPE_CHECKING:
    from softmaxkit.engine.engine import Engine


@dataclass(frozen=True)
class EngineOptions:
    """Which engine to build.

    Attributes:
        rows: keys at a time.
        columns: channels at a time.
        channels: of a query.
        max_keys: that the buffers hold.
        pipeline: "token", "element" or "deferred"; None for the unit's own.
        storage: of buffers, rows and tables.
        depth: registers of the unit; None for its own.
        loadable: are the constants of the method loaded?
    """

    rows: int = 4
    columns: int = 8
    channels: int = 64
    max_keys: int = 256
    pipeline: str | None = None
    storage: str = "flip-flops"
    depth: int | None = None
    loadable: bool = False

    def build(self, spec: Spec) -> Engine:
        """Return the engine of a method, with its first example's constants.

        Raises:
            ValueError: sizes that cannot be built, or a pipeline that the method has not.
        """
        from softmaxkit.engine.engine import Engine
        from softmaxkit.engine.golden import Attention

        sizes = {name: value for name, value in asdict(self).items() if name != "channels"}
        return Engine(Attention.of(spec, self.channels), **sizes)


def forms_of_engine(spec: Spec, options: EngineOptions) -> list[tuple[EngineOptions, Engine]]:
    """Return the engines of a method that verification goes through.

    Without a pipeline, that of its unit and that with the division last; and loadable ones where constants can be.
    """
    pipelines = [options.pipeline] if options.pipeline else [None, *["deferred"] * spec.divides_last]
    forms = []
    for pipeline in pipelines:
        baked = replace(options, pipeline=pipeline)
        forms.append((baked, baked.build(spec)))
        if pipeline != "deferred" and spec.unit(options.rows, max_row=options.max_keys).registers is not None:
            loadable = replace(baked, loadable=True)
            forms.append((loadable, loadable.build(spec)))
    return forms


def verify_engines(
    specs: Sequence[Spec],
    options: EngineOptions,
    outputs: int,
    seed: int,
    inject_fault: bool,
    waveform: Path | None,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Compare every output of the engines of some methods with golden attention, and return the record.

    Args:
        specs: the methods.
        options: which engine.
        outputs: to compare of each pipeline, at least.
        seed: of all random numbers, and of the fault.
        inject_fault: break each engine first, to see that this is noticed.
        waveform: file for the waveform (VCD) of the first run that fails, or of the last.
        command: for the record.
        stage: shows progress.
        say: called with each fault that is injected, and with what is wrong.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: sizes that cannot be built.
    """
    from softmaxkit.engine.verify import verify_engine
    from softmaxkit.flow.faults import Fault

    forms = [form for spec in specs for form in forms_of_engine(spec, options)]
    alike = Counter((engine.attention.spec, engine.pipeline) for _, engine in forms)
    results = []
    for each, engine in forms:
        spec = engine.attention.spec
        several = alike[spec, engine.pipeline]
        title = engine.pipeline + (f" {'loadable' if each.loadable else 'baked'}" if several > 1 else "")
        fault = Fault(seed) if inject_fault else None
        progress = stage(f"verify {spec.name} {title}")
        verification = verify_engine(engine, -(-outputs // several), seed, fault, waveform, progress)
        report(verification, fault, say)
        results.append(
            make_result(
                spec,
                "hardware",
                unit=title,
                **about_engine(engine),
                simulator=verification.simulator,
                compared=verification.compared,
                mismatches=verification.mismatches,
                faults=verification.faults,
                wrong=[wrong._asdict() for wrong in verification.wrong],
                cycles=verification.cycles,
                seconds=round(verification.seconds, 3),
                injected_fault=fault and fault.what,
            )
        )
    return make_record(command, seed, {"outputs": outputs}, results)


def synthesize_engines(
    spec: Spec,
    options: EngineOptions,
    synthesis: SynthesisOptions,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Map a method's engine to cells, compare every output of the netlist with golden attention; return the record.

    Args:
        spec: the method.
        options: which engine.
        synthesis: how; sizes do not matter.
        command: for the record.
        stage: shows progress.
        say: called with what is wrong, and with the files that are written.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: a library is damaged or lacks what is needed.
        OSError: a file cannot be read or written.
        ValueError: sizes that cannot be built.
    """
    from softmaxkit.engine.synthesize import synthesize_engine
    from softmaxkit.engine.vectors import Driven
    from softmaxkit.flow.cells.macros import macros_from_liberty
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.sources import Source
    from softmaxkit.flow.synthesize import at_corners
    from softmaxkit.flow.verilog import to_rtlil

    engine = options.build(spec)
    about = {"form": f"engine, {engine.pipeline}", **about_engine(engine)}
    progress = stage(f"synthesise the engine of {spec.name}, {engine.pipeline}")
    inputs = {"cells": synthesis.cells, "wires": synthesis.wires}
    if synthesis.cells in FAMILIES:
        figures = count_cells(Source("engine", {"design.il": to_rtlil(Driven(engine), "engine")}), synthesis.cells)
        result = make_result(spec, "hardware", **about, cells=synthesis.cells, **figures)
        return make_record(command, 0, inputs, [result])
    found = synthesize_engine(
        *(engine, synthesis.cells, synthesis.clock, synthesis.wires, synthesis.liberty),
        *(macros_from_liberty(synthesis.sram), progress),
    )
    found = at_corners(found, synthesis.corners)
    for fault in found.faults:
        say(f"wrong: {fault}")
    buffers = ", ".join(f"{part} {area:,.0f} um2" for part, area in found.area.items() if part.endswith(" buffer"))
    if buffers:
        say(f"beside the datapath: {buffers}")
    if synthesis.output is not None:
        write_netlist(synthesis.output, f"engine_{spec.method}_{engine.pipeline}", found, say)
    result = make_result(spec, "hardware", **about, **found.figures(), faults=list(found.faults))
    return make_record(command, 0, inputs, [result])


def write_engine(
    spec: Spec,
    options: EngineOptions,
    folder: Path,
    name: str | None,
    period: float,
    command: Sequence[str],
    stage: Stage,
) -> dict[str, Any]:
    """Write a method's engine: Verilog, a test bench with vectors, and a note; return the record.

    Args:
        spec: the method.
        options: which engine.
        folder: to write; missing, empty, or an older export.
        name: of the top module; None for one after the method.
        period: of the test bench's clock, in ns.
        command: for the record.
        stage: shows progress.

    Raises:
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
        ValueError: sizes that cannot be built, or a name that is none.
    """
    from softmaxkit.engine.cycles import times
    from softmaxkit.engine.export import export_engine

    engine = options.build(spec)
    progress = stage("write the engine")
    name = name or f"softmaxkit_{spec.method}_engine"
    export_engine(engine, name, folder, period)
    progress(1, 1)
    last = times(engine, [engine.sizes.max_keys])[0].last
    about = {"folder": str(folder), "name": name, **about_engine(engine), "latency_cycles": last}
    result = make_result(spec, "hardware", unit=engine.pipeline, **about)
    return make_record(command, 0, {"clock_ns": period}, [result])


def about_engine(engine: Engine) -> dict[str, Any]:
    """Return what a record says of an engine."""
    sizes = engine.sizes
    return {
        "pipeline": engine.pipeline,
        "lanes": sizes.rows,
        **asdict(sizes),
        "storage": engine.storage,
        "depth": engine.unit.depth,
        "score_accumulator_bits": engine.query_key.sum_bits,
        "value_accumulator_bits": engine.value.sum_bits,
    }
