"""Attention engines: which of them, their verification, and their record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Say, Stage
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
    spec: Spec,
    options: EngineOptions,
    outputs: int,
    seed: int,
    inject_fault: bool,
    waveform: Path | None,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Compare every output of a method's engines with golden attention, and return the record.

    Args:
        spec: the method.
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

    forms = forms_of_engine(spec, options)
    results = []
    for each, engine in forms:
        alike = sum(other.pipeline == engine.pipeline for _, other in forms)
        share = -(-outputs // alike)
        fault = Fault(seed) if inject_fault else None
        title = engine.pipeline + (f" {'loadable' if each.loadable else 'baked'}" if alike > 1 else "")
        progress = stage(f"verify {spec.name} {title}")
        verification = verify_engine(engine, share, seed, fault, waveform, progress)
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
