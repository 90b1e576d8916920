"""Cycles, time, energy and area of a model's attention on a chip, by method and pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.simulation.chip import Phase, Run, queries_of, run
from softmaxkit.simulation.costs import Costs, NoRecord
from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.energy import bill
from softmaxkit.simulation.hardware import Hardware
from softmaxkit.simulation.pipelines import CannotBuild, engine_of, pipelines_of
from softmaxkit.simulation.scale_out import exchange
from softmaxkit.simulation.timeline import timeline
from softmaxkit.simulation.workload import Workload
from softmaxkit.studies.progress import Say

Work = TypeVar("Work")


@dataclass(frozen=True)
class SimulationOptions:
    """What to simulate.

    Attributes:
        workload: the model.
        hardware: the chip.
        specs: the specs of the methods.
        pipelines: pipelines to simulate for each method that supports them; None for all that it supports.
        phase: a prompt, or the next token.
        contexts: context lengths in tokens.
        chips: numbers of chips over which to split the keys, in addition to a single chip.
        records: folder of the records with the costs of parts.
    """

    workload: Workload
    hardware: Hardware
    specs: Sequence[Spec]
    pipelines: Sequence[str] | None
    phase: Phase
    contexts: Sequence[int]
    chips: Sequence[int]
    records: Path


def by_pipeline(options: SimulationOptions, say: Say, work: Callable[[Spec, str], Work]) -> list[Work]:
    """Return the result of `work` for each method and each of its selected pipelines.

    A pipeline that was not requested explicitly, and is not the method's own, is left out if it cannot be built or
    `work` finds no record of a part.

    Args:
        options: selects methods and pipelines.
        say: called with the reason for each pipeline that is left out.
        work: called with a method and a pipeline.

    Raises:
        ValueError: no method has a requested pipeline; or a required one cannot be built or has no record.
    """
    done = []
    for spec in options.specs:
        for pipeline in pipelines_of(spec):
            if options.pipelines is not None and pipeline not in options.pipelines:
                continue
            try:
                done.append(work(spec, pipeline))
            except (CannotBuild, NoRecord) as error:
                if options.pipelines is not None or pipeline == pipelines_of(spec)[0]:
                    raise
                say(f"leaving out {spec.title} with the pipeline {pipeline}: {error}")
    if not done:
        methods = "; ".join(f"{spec.name}: {', '.join(pipelines_of(spec))}" for spec in options.specs)
        raise ValueError(
            f"no selected method has the pipeline {' or '.join(options.pipelines or ())}; available are {methods}"
        )
    return done


def simulate(options: SimulationOptions, command: Sequence[str], say: Say) -> dict[str, Any]:
    """Run the simulation; return the record, with a result for each method, pipeline and context.

    Figures cover the attention of all layers that attend to the whole context, without projections and feed-forward
    layers. If the model has other layers, `layers` is the number included, and `left_out` describes and counts the
    others. If the cost of a part is unknown, `without_energy` replaces total energy and area: `reasons`, and the
    `command` that makes the record.

    Args:
        options: what to simulate.
        command: the command line, for the record.
        say: called with the reason for each pipeline that is left out.

    Raises:
        HardwareError: the hardware is too small for the model, or a part does not reach the clock.
        ValueError: no layer attends to a context of this length, or no method has a requested pipeline.
    """

    def of_contexts(spec: Spec, pipeline: str) -> list[dict[str, Any]]:
        return [_result(options, spec, pipeline, context) for context in options.contexts]

    results = [result for pipeline_results in by_pipeline(options, say, of_contexts) for result in pipeline_results]
    inputs = {
        "model": options.workload.to_json(),
        "hardware": options.hardware.to_json(),
        "phase": options.phase,
        "contexts": list(options.contexts),
        "records": str(options.records),
    }
    return make_record(command, 0, inputs, results)


def _result(options: SimulationOptions, spec: Spec, pipeline: str, context: int) -> dict[str, Any]:
    """Return the result for one chip, and under `chips` those for keys split over several."""
    workload, hardware = options.workload.at(context), options.hardware
    engine = engine_of(spec, pipeline, hardware, workload.channels, context)
    pace, tokens = Pace(engine), context if options.phase == "prompt" else 1

    def on_chip(chips: int) -> tuple[Run, dict[str, Any]]:
        queries = queries_of(workload, options.phase, context, chips)
        done = run(workload, hardware, pace, queries)
        return done, _costs(Costs(hardware, spec, pipeline, engine.sizes, queries.last, options.records), done, tokens)

    done, costs = on_chip(1)
    seconds = hardware.seconds(done.cycles)
    own = queries_of(workload, options.phase, context).of_engine(done.engines_per_head)
    split = []
    for chips in options.chips:
        part, part_costs = on_chip(chips)
        split.append(exchange(spec, workload, hardware, chips, tokens, part, part_costs))
    return make_result(
        engine.attention.spec,
        "hardware",
        pipeline=pipeline,
        context=context,
        **({"layers": workload.layers, "left_out": dict(workload.left_out)} if workload.left_out else {}),
        cycles=round(done.cycles),
        computed_cycles=round(done.cycles - done.memory),
        stall_percent=100 * done.drain / (done.cycles - done.memory),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        utilization_percent=100 * done.multiplications / (hardware.multipliers * done.cycles),
        **_stalls(done),
        engines_per_head=done.engines_per_head,
        loading=done.loading,
        moved_bytes=done.moved_bytes,
        **costs,
        **({"chips": split} if split else {}),
        series={"timeline": timeline(engine, own)},
    )


def _costs(costs: Costs, done: Run, tokens: int) -> dict[str, Any]:
    """Return energy and area of a run by part, and either the totals or, if a part is missing, the reasons."""
    taken = bill(costs, done)
    energy = sum(taken.energy_uj.values())
    whole = {
        "energy_uj": energy,
        "energy_uj_per_token": energy / tokens,
        "area_mm2": sum(taken.area_mm2.values()),
    }
    return {
        **({"without_energy": _reasons(taken.missing.values())} if taken.missing else whole),
        "energy_uj_by_part": taken.energy_uj,
        "area_mm2_by_part": taken.area_mm2,
        "sources": taken.sources,
    }


def _reasons(missing: Iterable[NoRecord]) -> list[dict[str, Any]]:
    """Return the commands that make missing records, each with the reasons why it is needed."""
    reasons: dict[str, dict[str, None]] = {}
    for part in missing:
        reasons.setdefault(part.command, {})[part.reason] = None
    return [{"reasons": [*of_command], "command": command} for command, of_command in reasons.items()]


def _stalls(done: Run) -> dict[str, float]:
    """Return the percentages of the time for which the arrays work, and for which they wait, by cause."""
    parts = {"busy": done.busy, "memory": done.memory, "unit": done.unit, "drain": done.drain}
    return {f"{name}_percent": 100 * part / done.cycles for name, part in parts.items()}
