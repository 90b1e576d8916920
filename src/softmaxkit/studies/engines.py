"""Attention engines: their configuration, verification, synthesis and export as Verilog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.fpga import FAMILIES
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.netlists import write_netlist
from softmaxkit.studies.progress import Say, Stage
from softmaxkit.studies.silicon import SynthesisOptions
from softmaxkit.studies.verification import report

if TYPE_CHECKING:
    from softmaxkit.engine.engine import Engine


@dataclass(frozen=True)
class EngineOptions:
    """Configuration of an engine.

    Attributes:
        rows: keys processed in parallel.
        columns: channels processed in parallel.
        channels: channels of a query.
        max_keys: capacity of the buffers, in keys.
        pipeline: "token", "element" or "deferred"; None for the unit's default.
        storage: what buffers, rows and tables are stored in.
        depth: pipeline registers of the unit; None for its default.
        loadable: whether the method's constants are loadable instead of baked in.
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
        """Return the engine of a method, with the constants of its first example.

        Raises:
            ValueError: the sizes cannot be built, or the method does not support the pipeline.
        """
        from softmaxkit.engine.engine import Engine
        from softmaxkit.engine.golden import Attention

        sizes = {name: value for name, value in asdict(self).items() if name != "channels"}
        return Engine(Attention.of(spec, self.channels), **sizes)


def forms_of_engine(spec: Spec, options: EngineOptions) -> list[tuple[EngineOptions, Engine]]:
    """Return the engines of a method to verify.

    If the options name no pipeline, these are the default one and, if the method supports it, "deferred". An engine
    whose unit can load constants is verified with baked-in and with loadable constants.
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
        options: configuration of the engines.
        outputs: minimum number of outputs to compare for each pipeline.
        seed: seed of all random numbers and of the injected fault.
        inject_fault: inject a fault into each engine, to check that verification detects it.
        waveform: file for the waveform (VCD) of the first run that fails, or else of the last run.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each injected fault and each error found.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: the sizes cannot be built.
    """
    from softmaxkit.engine.verify import verify_engine
    from softmaxkit.flow.faults import Fault

    forms = [form for spec in specs for form in forms_of_engine(spec, options)]
    forms_of_pipeline = Counter((engine.attention.spec, engine.pipeline) for _, engine in forms)
    results = []
    for form_options, engine in forms:
        spec = engine.attention.spec
        count = forms_of_pipeline[spec, engine.pipeline]
        title = engine.pipeline + (f" {'loadable' if form_options.loadable else 'baked'}" if count > 1 else "")
        fault = Fault(seed) if inject_fault else None
        progress = stage(f"verify {spec.name} {title}")
        verification = verify_engine(engine, -(-outputs // count), seed, fault, waveform, progress)
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
        options: configuration of the engine.
        synthesis: how to synthesise; its `sizes` are ignored.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each error found and each file written.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: a library is damaged or incomplete.
        OSError: a file cannot be read or written.
        ValueError: the sizes cannot be built.
    """
    from softmaxkit.engine.synthesize import synthesize_engine
    from softmaxkit.engine.vectors import EngineAsUnit
    from softmaxkit.flow.cells.macros import macros_from_liberty
    from softmaxkit.flow.fpga import count_cells
    from softmaxkit.flow.sources import Source
    from softmaxkit.flow.verilog import to_rtlil

    engine = options.build(spec)
    about = {"form": f"engine, {engine.pipeline}", **about_engine(engine)}
    progress = stage(f"synthesise the engine of {spec.name}, {engine.pipeline}")
    inputs = {"cells": synthesis.cells, "wires": synthesis.wires}
    if synthesis.cells in FAMILIES:
        figures = count_cells(
            Source("engine", {"design.il": to_rtlil(EngineAsUnit(engine), "engine")}), synthesis.cells
        )
        result = make_result(spec, "hardware", **about, cells=synthesis.cells, **figures)
        return make_record(command, 0, inputs, [result])
    mapped = synthesize_engine(
        *(engine, synthesis.cells, synthesis.clock, synthesis.wires, synthesis.liberty),
        *(macros_from_liberty(synthesis.sram), progress, synthesis.corners),
    )
    for fault in mapped.faults:
        say(f"wrong: {fault}")
    buffers = ", ".join(f"{part} {area:,.0f} um2" for part, area in mapped.area.items() if part.endswith(" buffer"))
    if buffers:
        say(f"in addition to the datapath: {buffers}")
    if synthesis.output is not None:
        write_netlist(synthesis.output, f"engine_{spec.method}_{engine.pipeline}", mapped, say)
    result = make_result(spec, "hardware", **about, **mapped.figures(), faults=list(mapped.faults))
    return make_record(command, 0, inputs, [result])


def write_engine(
    spec: Spec,
    options: EngineOptions,
    folder: Path,
    name: str | None,
    constraints: Constraints,
    command: Sequence[str],
    stage: Stage,
) -> dict[str, Any]:
    """Write a method's engine: Verilog, a test bench with vectors, assertions, constraints, a note; return the record.

    Args:
        spec: the method.
        options: which engine.
        folder: to write; missing, empty, or an older export.
        name: of the top module; None for one after the method.
        constraints: timing constraints; the test bench has their clock.
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
    export_engine(engine, name, folder, constraints)
    progress(1, 1)
    last = times(engine, [engine.sizes.max_keys])[0].last
    about = {"folder": str(folder), "name": name, **about_engine(engine), "latency_cycles": last}
    result = make_result(spec, "hardware", unit=engine.pipeline, **about)
    return make_record(command, 0, {"clock_ns": constraints.period}, [result])


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
