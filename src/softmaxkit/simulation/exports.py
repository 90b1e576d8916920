"""The part that exports to other tools share: selecting and naming the units."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from softmaxkit.engine.engine import Engine
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.pipelines import engine_of
from softmaxkit.simulation.simulate import SimulationOptions, Work, by_pipeline
from softmaxkit.studies.progress import Say


@dataclass(frozen=True)
class Exported:
    """A unit to be exported.

    Attributes:
        name: method, variant and pipeline, in lower case and joined by hyphens.
        pipeline: the engine's pipeline.
        engine: the engine, for rows of the longest context, or the longest that an engine supports.
        costs: the engine's costs, for rows of the longest context.
        options: the options of the simulation.
    """

    name: str
    pipeline: str
    engine: Engine
    costs: Costs
    options: SimulationOptions


def exported(options: SimulationOptions, say: Say, work: Callable[[Exported], Work]) -> dict[str, Work]:
    """Return the result of `work` for each unit, keyed by name, so that all of them succeed before any is written.

    Args:
        options: selects the units.
        say: called with the reason for each pipeline that is left out.
        work: called with each unit.

    Raises:
        ValueError: two units have the same name, or as for `by_pipeline`.
    """
    context, specs = max(options.contexts), dict[str, Spec]()

    def of_unit(spec: Spec, pipeline: str) -> tuple[str, Work]:
        engine = engine_of(spec, pipeline, options.hardware, options.workload.channels, context)
        built = engine.attention.spec
        name = re.sub("[^a-z0-9]+", "-", f"{built.name} {pipeline}".lower())
        if specs.setdefault(name, built) != built:
            both = f"{specs[name].name} and {built.name}"
            raise ValueError(f"{both} would both be written as {name}; export one at a time")
        costs = Costs(options.hardware, spec, pipeline, engine.sizes, context, options.records)
        return name, work(Exported(name, pipeline, engine, costs, options))

    return dict(by_pipeline(options, say, of_unit))
