"""Synthesis of engines: area, clock, power and energy, with every output of the netlist compared with golden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from softmaxkit.engine.cycles import loading
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.vectors import EngineAsUnit, engine_stream, random_head
from softmaxkit.engine.verify import expected_cycles
from softmaxkit.flow.cells.macros import Macro
from softmaxkit.flow.cells.processes import PROCESSES
from softmaxkit.flow.corners import read_corners
from softmaxkit.flow.figures import Synthesis
from softmaxkit.flow.mapping import map_design
from softmaxkit.flow.sources import Source
from softmaxkit.flow.sram import MACROS
from softmaxkit.flow.synthesize import PARTS, chosen_library, fit, measured
from softmaxkit.flow.verilog import to_rtlil

ENGINE_PARTS: Mapping[str, str] = {"key buffer": "key_memory", "value buffer": "value_memory", **PARTS}
"""Parts of an engine that are storage only; the rest, the arrays and the unit, is the datapath."""

CYCLES = 512
"""Least number of cycles over which activity is counted."""

QUERIES = 6
"""Queries of each of the two heads that run with gaps and stalls."""


def synthesize_engine(
    engine: Engine,
    cells: str = "sky130",
    clock: float | None = None,
    wires: bool = True,
    liberty: Sequence[Path] = (),
    macros: Sequence[Macro] = (),
    progress: Callable[[int, int], None] | None = None,
    corners: Sequence[Sequence[Path]] = (),
) -> Synthesis:
    """Map an engine to cells, time it, run the netlist, compare every output, and measure its energy.

    The stimuli are random consecutive queries that attend to all keys; an element is one query-key pair.

    Args:
        engine: baked or loadable; external memories are reported separately.
        cells: process, see `softmaxkit.flow.synthesize.chosen_library`.
        clock: target period in ns; default: that of the process.
        wires: estimate wire capacitance.
        liberty: files to use in place of the bundled tables.
        macros: that make up external memories; default: those published for the process.
        progress: called with the steps done and the total.
        corners: the Liberty files of each other corner, at which to time the netlist as well.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: the library or a corner is damaged or incomplete.
        ValueError: the process is unknown, or the engine's cycles have no recurrence.
    """
    library = chosen_library(cells, liberty, wires)
    others = read_corners(corners, library)
    period = clock if clock is not None else PROCESSES[cells].clock
    steps = iter(range(1, 5))

    def tick() -> None:
        if progress:
            progress(next(steps), 4)

    driven, keys = EngineAsUnit(engine), engine.sizes.max_keys
    interval = max(engine.sizes.steps * engine.sizes.beats(keys), engine.query_interval)
    count = -(-CYCLES // interval)
    random = np.random.default_rng(0)
    whole = random_head(engine, np.full(3 * count, keys), random)
    # Cycles from the reset on: the load, and the queries that fill the engine.
    warm_up = loading(engine, keys) + 8 + int(expected_cycles(engine, [whole])[0]) + interval
    steady = engine_stream(engine, [whole])
    heads = [random_head(engine, random.integers(0, keys, QUERIES, endpoint=True), random) for _ in range(2)]
    apart = tuple(f"*_{pattern}" for pattern in ENGINE_PARTS.values())
    source = Source("engine", {"design.il": to_rtlil(driven, "engine")}, apart)
    mapped = map_design(source, library, period)
    fitted = fit(mapped, period, library.name if liberty else cells, ENGINE_PARTS, others)
    tick()
    run = measured(
        *(fitted, driven, steady, engine_stream(engine, heads), (warm_up, count * interval)),
        *(ENGINE_PARTS, macros or MACROS[cells], tick),
    )
    return replace(run, elements=keys / interval, row=keys)
