"""Area, clock and energy of the methods' main forms at three clocks and with several lanes, to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from softmaxkit.files import cache_folder
from softmaxkit.methods.base.forms import Form
from softmaxkit.record import make_record
from softmaxkit.studies.progress import Say, Stage
from softmaxkit.studies.resume import result_folder, resumed
from softmaxkit.studies.silicon import SynthesisOptions, UnitToMap, synthesize_units, units_of_forms

CLOCKS = (1.5, 1.0, 0.625)
"""Clock periods, as multiples of the process's default."""

LANES = (1, 4, 16)
"""Numbers of lanes; all but the first are synthesised at the default clock only."""

STORAGE = "memory"
"""What rows are buffered in; loadable tables are then made of latches."""


def operating_points(period: float, most_lanes: int = LANES[-1]) -> list[tuple[int, float]]:
    """Return the lanes and the clock period in ns of each netlist of a form: all clocks with one lane, then more lanes.

    Args:
        period: the process's default period, in ns.
        most_lanes: maximum number of lanes.
    """
    more = [(lanes, period) for lanes in LANES[1:] if lanes <= most_lanes]
    return [(LANES[0], factor * period) for factor in CLOCKS] + more


def pareto(
    forms: Sequence[Form], options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> dict[str, Any]:
    """Synthesise the main forms at every operating point, and return the record.

    Finished netlists are cached by content, so that a run that was stopped resumes where it was.

    Args:
        forms: the methods' forms, of which only the main ones are used.
        options: how to synthesise; the clock is that of the process, the storage is `STORAGE`, and `lanes` is the
            maximum.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each error found.

    Returns:
        The record: the results of `synthesize_units`, ordered by operating point and then by form, without paths and
        lists of cells.

    Raises:
        ToolError, LibertyError, OSError: as `synthesize_units`.
    """
    from softmaxkit.flow.cells.processes import PROCESSES

    points = operating_points(PROCESSES[options.cells].clock, options.sizes["lanes"])
    jobs = [(point, unit) for point in points for unit in _units(forms, options, point[0])]
    done = stage(f"netlists in {options.cells}")
    results: list[dict[str, Any]] = []
    for number, ((lanes, clock), unit) in enumerate(jobs):
        at = replace(options, clock=clock, sizes={**options.sizes, "lanes": lanes, "storage": unit.unit.storage})
        results += _finished(unit, at, command, stage, say)
        done(number + 1, len(jobs))
    inputs = {
        **options.inputs(),
        "lanes": sorted({lanes for lanes, _ in points}),
        "clocks_ns": sorted({clock for _, clock in points}),
        "max_row": options.sizes["max_row"],
        "storage": STORAGE,
    }
    return make_record(command, 0, inputs, results)


def _units(forms: Sequence[Form], options: SynthesisOptions, lanes: int) -> Iterator[UnitToMap]:
    sizes = {**options.sizes, "lanes": lanes, "storage": STORAGE}
    yield from units_of_forms([form for form in forms if form.main], sizes, options.cells)


def _finished(
    unit: UnitToMap, options: SynthesisOptions, command: Sequence[str], stage: Stage, say: Say
) -> list[dict[str, Any]]:
    """Return the result of one unit, from the cache if it is finished."""
    from softmaxkit.flow.verilog import to_rtlil

    libraries = [path.read_bytes().hex() for path in (*options.liberty, *options.sram)]
    # The key includes the design and the flow's own code: a change of either gives a new folder.
    code = [path.read_text("utf-8") for path in _flow()]
    about = (unit.title, unit.spec.to_json(), to_rtlil(unit.unit, "unit"), options.inputs(), options.clock)
    folder = result_folder(cache_folder() / "figures", unit.spec.method, *about, libraries, code)

    def measure() -> list[dict[str, Any]]:
        (result,) = synthesize_units([unit], options, command, stage, say)["results"]
        return [{key: value for key, value in result.items() if key not in ("longest_path", "instances_by_cell")}]

    return resumed(folder, measure)


def _flow() -> Iterator[Any]:
    """Yield the Python files of the synthesis flow."""
    flow = files("softmaxkit.flow")
    for folder in (flow, flow / "cells"):
        yield from sorted((path for path in folder.iterdir() if path.name.endswith(".py")), key=str)
