"""Units as a package of hwcomponents, in which AccelForge and others look up what a component costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from string import Template

from softmaxkit.blocks.stream import beats
from softmaxkit.files import whole_folder, write_text
from softmaxkit.methods.base.unit import DeferredUnit
from softmaxkit.simulation.accelforge_example import EXAMPLE, SYSTEM
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.exports import Exported, exported
from softmaxkit.simulation.simulate import SimulationOptions
from softmaxkit.studies.progress import Say

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

HEAD = '''"""Softmax units of softmaxkit, as `softmaxkit simulate --accelforge` wrote them."""

from bisect import bisect_left

from hwcomponents import ActionCost, ComponentModel, action


class _Unit(ComponentModel):
    """A unit: `compute` is a score. Energies are of the netlist and of the memory in which rows wait,
    leakage is of that memory.

    AccelForge takes a component's time from calls and throughput alone. So `throughput` has in it what rows wait, from
    the first score to the last weight of `rows` rows behind each other. With `waits=False` it has not: weights leave as
    fast as scores come, as if the operation were element-wise. `latency` is the time from the first score of a row to
    its last weight.

    Args:
        length: scores of a row; of the longest where left out.
        rows: behind each other, before anything is done with their weights.
        waits: does the throughput have in it what rows wait?
    """

    priority = 0.9

    def __init__(self, length: int | None = None, rows: int = 1, waits: bool = True):
        self.length = self.memories[-1][0] if length is None else length
        if not 1 <= self.length <= self.memories[-1][0]:
            raise ValueError(
                f"{self.component_name} is known for rows of 1 to {self.memories[-1][0]} scores, not {length}; "
                "export it with a longer --context"
            )
        self.rows, self.waits = rows, waits
        _, area_m2, self.waiting_j, leak_w = self.memories[bisect_left(self.memories, (self.length,))]
        super().__init__(area=self.area_m2 + area_m2, leak_power=leak_w)

    @action
    def compute(self) -> ActionCost:
        """Return the cost of a score."""
        beats = -(-self.length // self.lanes)
        latency, interval = _between(self.latencies, beats), _between(self.intervals, beats)
        cycles = self.rows * interval + (latency - interval if self.waits else 0)
        throughput = self.rows * self.length * self.clock_hz / cycles
        energy = self.score_j + self.waiting_j
        return ActionCost(energy=energy, throughput=throughput, latency=latency / self.clock_hz)


def _between(points, beats):
    """Return the cycles of a row of so many beats, from points between which they lie on straight lines."""
    place = bisect_left(points, (beats,))
    end, cycles = points[place]
    if end == beats:
        return cycles
    start, before = points[place - 1]
    return before + (cycles - before) * (beats - start) // (end - start)
'''

MODEL = Template('''

class $name(_Unit):
    """$title, $pipeline pipeline: $lanes lanes in $process at $clock_mhz MHz. $source."""

    component_name = "$component"
    lanes = $lanes
    clock_hz = $clock_hz
    area_m2 = $area_m2
    score_j = $score_j
    # Beats of a row, with the cycles from its first score to its last weight, and to the first score of the next.
    latencies = $latencies
    intervals = $intervals
    # Rows of up to so many scores, with what the memory in which they wait takes: m2, J for a score, W of leakage.
    memories = $memories
''')

Points = list[tuple[int, int]]
"""Beats and cycles."""


def write_package(folder: Path, options: SimulationOptions, say: Say) -> list[str]:
    """Write the units of the methods and pipelines as a package that pip installs, and an example.

    Args:
        folder: for the project; what else is there stays.
        options: which units.
        say: called with why a pipeline is left out.

    Returns:
        the names of its components.

    Raises:
        ValueError: no record says what a unit costs, or two units have one name; nothing is written then.
    """
    models = exported(options, say, _model)
    components = [_component(name) for name in models]
    hardware, workload = options.hardware, options.workload
    system = SYSTEM.substitute(
        multiplications_per_second=repr(hardware.arrays.rows * hardware.arrays.columns / hardware.seconds(1)),
        bits_per_second=repr(8e9 * hardware.dram.bandwidth_gb_per_s / hardware.engines),
        joules_per_bit=repr(hardware.dram.energy_pj_per_bit * 1e-12),
        channels=workload.channels,
    )
    with whole_folder(folder / PACKAGE) as work:
        write_text(work / "__init__.py", "".join([HEAD, *models.values()]))
    write_text(folder / "pyproject.toml", PROJECT)
    write_text(folder / "attention.yaml", system)
    example = EXAMPLE.substitute(units="".join(f'    "{name}",\n' for name in components), keys=max(options.contexts))
    write_text(folder / "attention.py", example)
    return components


def _component(name: str) -> str:
    return f"softmax_{name.replace('-', '_')}"


def _model(unit: Exported) -> str:
    """Return the class of a unit."""
    hardware, costs = unit.options.hardware, unit.costs
    component, lanes = _component(unit.name), unit.engine.sizes.rows
    count = beats(costs.keys, lanes)
    latencies, intervals = _points(unit)
    memories = [
        (row, area * 1e-12, energy * 1e-12, leaks * 1e-9) for row, area, energy, leaks in _memories(costs, count)
    ]
    return MODEL.substitute(
        name="".join(part.capitalize() for part in component.split("_")),
        component=component,
        title=unit.engine.attention.spec.title,
        pipeline=unit.pipeline,
        lanes=lanes,
        process=hardware.process,
        clock_mhz=f"{hardware.clock_mhz:g}",
        source=costs.unit.source,
        clock_hz=repr(1 / hardware.seconds(1)),
        area_m2=repr(costs.unit.area_um2 * 1e-12),
        score_j=repr(costs.unit.energy_pj * 1e-12),
        latencies=_written(latencies),
        intervals=_written(intervals),
        memories=_written(memories),
    )


def _written(values: Sequence[tuple[float, ...]]) -> str:
    """Return tuples as Python, one a line."""
    return "(\n" + "".join(f"        {value!r},\n" for value in values) + "    )"


def _points(unit: Exported) -> tuple[Points, Points]:
    """Return the cycles of rows from the first score to the last weight, and to the first score of the next row.

    With the division last, rows count as whole slices.
    """
    inside, lanes = unit.engine.unit, unit.engine.sizes.rows
    built, count = beats(inside.max_row, lanes), beats(unit.costs.keys, lanes)
    if isinstance(inside, DeferredUnit):
        pace, most = inside.pace, inside.slice_beats
        stays = inside.waits(most) + (most - 1) * pace
        latencies = [(beat - 1) * pace + stays for beat in range(1, built + 1)]
        intervals = [beat * pace for beat in range(1, built + 1)]
    else:
        latencies = [inside.latency(beat * lanes) for beat in range(1, built + 1)]
        intervals = [inside.interval(beat * lanes) for beat in range(1, built + 1)]
    return _bends(latencies, count), _bends(intervals, count)


def _bends(cycles: list[int], count: int) -> Points:
    """Return the points, first and last among them, between which cycles of 1 to `count` beats lie on straight lines.

    Args:
        cycles: of 1, 2 and so on beats; rows of more take as many more for every beat as the last of these.
        count: beats.
    """
    steps = [after - before for before, after in pairwise(cycles)]
    bends = [place + 1 for place, (before, after) in enumerate(pairwise(steps)) if before != after]
    points = [(place + 1, cycles[place]) for place in sorted({0, *bends, len(cycles) - 1})]
    if count > len(cycles):
        points[-1] = (count, cycles[-1] + (count - len(cycles)) * steps[-1])
    return points


def _memories(costs: Costs, count: int) -> Iterator[tuple[int, float, float, float]]:
    """Yield the memories in which rows wait, each for rows longer than those of the one before.

    A memory is scores of its longest row, area in um2, energy of a score in pJ, and leakage in nW.

    Args:
        costs: of the unit.
        count: beats of the longest row.
    """
    lanes = costs.sizes.rows

    def made(beat: int) -> tuple[float, float, float]:
        memories = replace(costs, keys=beat * lanes).unit_memories.values()
        area, leakage = (sum(getattr(each, figure) for each, _ in memories) for figure in ("area", "leakage"))
        return area, sum(energy for _, energy in memories), leakage

    begin = 1
    while begin <= count:
        # Memories of least area only grow with rows, so that the last of equal ones is found by halving.
        here, end, beyond = made(begin), begin, count + 1
        while beyond - end > 1:
            middle = (end + beyond) // 2
            end, beyond = (middle, beyond) if made(middle) == here else (end, middle)
        yield min(end * lanes, costs.keys), *here
        begin = end + 1
