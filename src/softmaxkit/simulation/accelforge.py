"""Export of units as an hwcomponents package, the format in which AccelForge and others look up component costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from string import Template

from softmaxkit.blocks.stream import beats
from softmaxkit.files import whole_folder, write_text
from softmaxkit.methods.base.deferred_unit import DeferredUnit
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
description = "Softmax units of softmaxkit as hwcomponents, with figures from their synthesis"
requires-python = ">=3.12"
dependencies = ["hwcomponents>=1.0.100"]

[tool.setuptools]
packages = ["{PACKAGE}"]
"""

HEAD = '''"""Softmax units of softmaxkit, written by `softmaxkit simulate --accelforge`."""

from bisect import bisect_left

from hwcomponents import ActionCost, ComponentModel, action


class _Unit(ComponentModel):
    """A softmax unit; one `compute` action processes one score. Energies include the netlist and the row memory;
    leakage is that of the row memory only.

    AccelForge derives a component's time from the number of actions and the throughput alone. `throughput` therefore
    includes the time that rows wait in the unit: it is taken from the first score to the last weight of `rows`
    consecutive rows. With `waits=False` it does not: weights leave as fast as scores arrive, as if the operation were
    element-wise. `latency` is the time from the first score of a row to its last weight.

    Args:
        length: scores in a row; by default the longest row that the unit supports.
        rows: consecutive rows that are processed before their weights are used.
        waits: include the waiting time of rows in the throughput.
    """

    priority = 0.9

    def __init__(self, length: int | None = None, rows: int = 1, waits: bool = True):
        self.length = self.memories[-1][0] if length is None else length
        if not 1 <= self.length <= self.memories[-1][0]:
            raise ValueError(
                f"{self.component_name} was exported for rows of 1 to {self.memories[-1][0]} scores, not {length}; "
                "export it with a longer --context"
            )
        self.rows, self.waits = rows, waits
        _, area_m2, self.waiting_j, leak_w = self.memories[bisect_left(self.memories, (self.length,))]
        super().__init__(area=self.area_m2 + area_m2, leak_power=leak_w)

    @action
    def compute(self) -> ActionCost:
        """Return the cost of one score."""
        beats = -(-self.length // self.lanes)
        latency, interval = _between(self.latencies, beats), _between(self.intervals, beats)
        cycles = self.rows * interval + (latency - interval if self.waits else 0)
        throughput = self.rows * self.length * self.clock_hz / cycles
        energy = self.score_j + self.waiting_j
        return ActionCost(energy=energy, throughput=throughput, latency=latency / self.clock_hz)


def _between(points, beats):
    """Return the cycles of a row of `beats` beats, interpolated linearly between (beats, cycles) points."""
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
    # Points (beats of a row, cycles): from its first score to its last weight, and to the first score of the next row.
    latencies = $latencies
    intervals = $intervals
    # Row memories: longest row in scores, area in m2, energy in J per score, leakage in W.
    memories = $memories
''')

Points = list[tuple[int, int]]
"""Pairs of beats and cycles."""


def write_package(folder: Path, options: SimulationOptions, say: Say) -> list[str]:
    """Write the units of the selected methods and pipelines as a pip-installable package, with an example.

    Args:
        folder: the project folder; other files in it are kept.
        options: selects the units.
        say: called with the reason for each pipeline that is left out.

    Returns:
        The names of the package's components.

    Raises:
        ValueError: no record has the cost of a unit, or two units have the same name; nothing is then written.
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
    """Return the source of a unit's class."""
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
    """Return tuples as Python source, one per line."""
    return "(\n" + "".join(f"        {value!r},\n" for value in values) + "    )"


def _points(unit: Exported) -> tuple[Points, Points]:
    """Return the cycles of rows from the first score to the last weight, and to the first score of the next row.

    In the deferred pipeline, rows are rounded up to whole slices.
    """
    inside, lanes = unit.engine.unit, unit.engine.sizes.rows
    built, count = beats(inside.max_row, lanes), beats(unit.costs.keys, lanes)
    if isinstance(inside, DeferredUnit):
        pace, slice_beats = inside.pace, inside.slice_beats
        delay = inside.delay(slice_beats) + (slice_beats - 1) * pace
        latencies = [(beat - 1) * pace + delay for beat in range(1, built + 1)]
        intervals = [beat * pace for beat in range(1, built + 1)]
    else:
        latencies = [inside.latency(beat * lanes) for beat in range(1, built + 1)]
        intervals = [inside.interval(beat * lanes) for beat in range(1, built + 1)]
    return _bends(latencies, count), _bends(intervals, count)


def _bends(cycles: list[int], count: int) -> Points:
    """Return the breakpoints, including both ends, between which the cycles of 1 to `count` beats are linear.

    Args:
        cycles: of rows of 1, 2, ... beats; the last difference is extrapolated to longer rows.
        count: beats of the longest row.
    """
    steps = [after - before for before, after in pairwise(cycles)]
    bends = [place + 1 for place, (before, after) in enumerate(pairwise(steps)) if before != after]
    points = [(place + 1, cycles[place]) for place in sorted({0, *bends, len(cycles) - 1})]
    if count > len(cycles):
        points[-1] = (count, cycles[-1] + (count - len(cycles)) * steps[-1])
    return points


def _memories(costs: Costs, count: int) -> Iterator[tuple[int, float, float, float]]:
    """Yield the row memories that the unit needs, in order of increasing row length.

    Each is (scores of the longest row that it stores, area in um2, energy in pJ per score, leakage in nW).

    Args:
        costs: costs of the unit.
        count: beats of the longest row.
    """
    lanes = costs.sizes.rows

    def figures(beat: int) -> tuple[float, float, float]:
        memories = replace(costs, keys=beat * lanes).unit_memories.values()
        area, leakage = (
            sum(getattr(arrangement, figure) for arrangement, _ in memories) for figure in ("area", "leakage")
        )
        return area, sum(energy for _, energy in memories), leakage

    begin = 1
    while begin <= count:
        # Memories of minimum area only grow with the row, so bisection finds the longest row with the same memory.
        current, end, beyond = figures(begin), begin, count + 1
        while beyond - end > 1:
            middle = (end + beyond) // 2
            end, beyond = (middle, beyond) if figures(middle) == current else (end, middle)
        yield min(end * lanes, costs.keys), *current
        begin = end + 1
