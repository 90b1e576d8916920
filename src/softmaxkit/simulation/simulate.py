"""Cycles, time, energy and area of a model's attention on a chip, by method and pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        specs: of the methods.
        pipelines: to show of each method, as far as it has them; None for all of its own.
        phase: a prompt, or the next token.
        contexts: tokens.
        chips: numbers of chips to split the keys over, besides the one.
        records: folder of the records that say what parts cost.
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
    """Return what `work` gives for the methods and those of their pipelines that were asked for.

    A pipeline that nobody asked for, and that is not the method's own, is left out where it cannot be built or `work`
    finds no record of a part.

    Args:
        options: which.
        say: called with why a pipeline is left out.
        work: takes a method and a pipeline.

    Raises:
        ValueError: no method has such a pipeline; or one that is not left out cannot be built or has no record.
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
                say(f"{spec.title} is left out with the pipeline {pipeline}: {error}")
    if not done:
        methods = "; ".join(f"{spec.name}: {', '.join(pipelines_of(spec))}" for spec in options.specs)
        raise ValueError(f"no method has the pipeline {' or '.join(options.pipelines or ())}; there are {methods}")
    return done


def simulate(options: SimulationOptions, command: Sequence[str], say: Say) -> dict[str, Any]:
    """Return the record: a result for each method, pipeline and context.

    Args:
        options: what to simulate.
        command: for the record.
        say: called with why a pipeline is left out, where no pipelines were asked for.

    Figures are those of the attention of all layers over the whole context. Where there are others, `layers` says how
    many these are, and `left_out` what the others are, with their numbers. Projections and feed-forward layers are not
    in them. Where the records do not say what a part costs, `without_energy` says why, in place of energy and area of
    the whole.

    Raises:
        HardwareError: hardware that the model does not fit, or a clock that the parts do not reach.
        ValueError: no layer attends to so long a context, or no method has such a pipeline.
    """

    def of_contexts(spec: Spec, pipeline: str) -> list[dict[str, Any]]:
        return [_result(options, spec, pipeline, context) for context in options.contexts]

    results = [result for each in by_pipeline(options, say, of_contexts) for result in each]
    inputs = {
        "model": options.workload.to_json(),
        "hardware": options.hardware.to_json(),
        "phase": options.phase,
        "contexts": list(options.contexts),
        "records": str(options.records),
    }
    return make_record(command, 0, inputs, results)


def _result(options: SimulationOptions, spec: Spec, pipeline: str, context: int) -> dict[str, Any]:
    """Return the result of one chip, and in `chips` of the keys split over several."""
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
    """Return energy and area of a run: by part, and in all where no part is missing, else why it is."""
    taken = bill(costs, done)
    energy = sum(taken.energy_uj.values())
    whole = {
        "energy_uj": energy,
        "energy_uj_per_token": energy / tokens,
        "area_mm2": sum(taken.area_mm2.values()),
    }
    return {
        **({"without_energy": list(dict.fromkeys(taken.missing.values()))} if taken.missing else whole),
        "energy_uj_by_part": taken.energy_uj,
        "area_mm2_by_part": taken.area_mm2,
        "sources": taken.sources,
    }


def _stalls(done: Run) -> dict[str, float]:
    """Return for what part of the time the arrays work, and for what they wait."""
    parts = {"busy": done.busy, "memory": done.memory, "unit": done.unit, "drain": done.drain}
    return {f"{name}_percent": 100 * part / done.cycles for name, part in parts.items()}
