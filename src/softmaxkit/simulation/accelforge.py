"""Units as a package of hwcomponents, in which AccelForge and others look up what a component costs."""

from __future__ import annotations

from pathlib import Path
from string import Template

from softmaxkit.files import write_text
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.pipelines import engine_of
from softmaxkit.simulation.simulate import SimulationOptions, chosen

PACKAGE = "hwcomponents_softmaxkit"

PROJECT = f"""[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "{PACKAGE.replace("_", "-")}"
version = "1"
description = "Softmax units of softmaxkit, by their synthesis, as components of hwcomponents"
requires-python = ">=3.12"
dependencies = ["hwcomponents>=1.0.100"]

[tool.setuptools]
packages = ["{PACKAGE}"]
"""

HEAD = '''"""Softmax units of softmaxkit, as `softmaxkit simulate --accelforge` wrote them.

`compute` is a score. Energies are of the netlist and of the memory in which rows wait; `latency` is that of a row of
`keys` scores through the engine behind its last score, which a description of attention as an element-wise operation
leaves out.
"""

from hwcomponents import ActionCost, ComponentModel, action
'''

MODEL = Template('''

class $name(ComponentModel):
    """$title, $pipeline pipeline: $lanes lanes in $process at $clock_mhz MHz. $source."""

    component_name = "$component"
    priority = 0.9

    def __init__(self, keys: int = $keys):
        super().__init__(area=$area_m2 + keys * $row_area_m2, leak_power=0.0)
        self.keys = keys

    @action
    def compute(self) -> ActionCost:
        """Return the cost of a score."""
        return ActionCost(energy=$energy_j, throughput=$throughput, latency=$latency_s)
''')


def write_package(folder: Path, options: SimulationOptions) -> list[str]:
    """Write the units of the methods and pipelines as a package that pip installs.

    Returns:
        the names of its components.

    Raises:
        ValueError: no record says what a unit costs.
    """
    found = [_model(spec, pipeline, options) for spec, pipeline in chosen(options)]
    names, models = [name for name, _ in found], [HEAD, *(text for _, text in found)]
    write_text(folder / "pyproject.toml", PROJECT)
    write_text(folder / PACKAGE / "__init__.py", "".join(models))
    return names


def _model(spec: Spec, pipeline: str, options: SimulationOptions) -> tuple[str, str]:
    """Return the component of a unit, and its class."""
    hardware, keys = options.hardware, max(options.contexts)
    engine = engine_of(spec, pipeline, hardware, options.workload.channels, keys)
    costs = Costs(hardware, spec, pipeline, engine.sizes, keys, options.records)
    rows = costs.unit_memories.values()
    pace = Pace(engine)
    component = f"softmax_{spec.method}_{pipeline}"
    seconds = hardware.seconds(1)
    text = MODEL.substitute(
        name="".join(part.capitalize() for part in component.split("_")),
        component=component,
        title=spec.title,
        pipeline=pipeline,
        lanes=engine.sizes.rows,
        process=hardware.process,
        clock_mhz=hardware.clock_mhz,
        source=costs.unit.source,
        keys=keys,
        area_m2=repr(costs.unit.area_um2 * 1e-12),
        row_area_m2=repr(sum(made.area for made, _ in rows) / keys * 1e-12),
        energy_j=repr((costs.unit.energy_pj + sum(each for _, each in rows)) * 1e-12),
        throughput=repr(engine.sizes.rows / seconds),
        latency_s=repr(pace.drain(keys) * seconds),
    )
    return component, text
