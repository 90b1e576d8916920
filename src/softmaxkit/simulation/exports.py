"""What exports to other tools share: which units they write, and under which names."""

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
    """A unit to be written.

    Attributes:
        name: lower-case words joined by hyphens: method, variant and pipeline.
        pipeline: of the engine.
        engine: for rows of the longest context, as far as engines are built.
        costs: of it, for rows of the longest context.
        options: of the simulation.
    """

    name: str
    pipeline: str
    engine: Engine
    costs: Costs
    options: SimulationOptions


def exported(options: SimulationOptions, say: Say, work: Callable[[Exported], Work]) -> dict[str, Work]:
    """Return what `work` gives of the units, by their names; nothing is written while a later one can still fail.

    Args:
        options: which units.
        say: called with why a pipeline is left out.
        work: takes a unit.

    Raises:
        ValueError: two units have one name, or as `by_pipeline` does.
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
