"""Compare the papers' ratios of area and energy with ours, without and with storage, measured in one run.

    python -m softmaxkit.studies.papers --json papers.json

prints the table of docs/silicon.md and writes the record. Each method lists the ratios that its paper publishes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.files import write_json
from softmaxkit.flow.synthesize import PARTS, synthesize
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import Form
from softmaxkit.methods.base.published import FRONT, Ratio, UnitPart
from softmaxkit.record import make_record
from softmaxkit.script import one_line_errors

if TYPE_CHECKING:
    from softmaxkit.flow.figures import Synthesis

Costs = dict[tuple[str, bool], "Synthesis"]
"""Synthesis results by the name of a spec and whether its constants are baked in."""

Result = Mapping[str, Any]


def ratios() -> list[tuple[str, Ratio]]:
    """Return the ratios that the methods' papers publish, each with the name of the method."""
    return [(name, ratio) for name, spec in METHODS.items() for ratio in spec.published_ratios()]


def paper_ratios(costs: Costs, command: Sequence[str]) -> dict[str, Any]:
    """Return the record: a result for each ratio, with the paper's figure and ours, without and with storage.

    Args:
        costs: synthesis results of the units in all ratios, see `measured`.
        command: the command line, for the record.
    """
    results = []
    for method, ratio in ratios():
        over, under = ratio.over.spec.name, ratio.under.spec.name
        result: dict[str, Any] = {"method": method, "what": ratio.what, "over": over, "under": under}
        for name, published, cost in (("area", ratio.area, _area), ("energy", ratio.energy, _energy)):
            result[f"paper_{name}"] = published
            for suffix, storage in (("", ()), ("_with_storage", tuple(PARTS))):
                if ratio.over.with_storage or not storage:
                    above, below = (cost(costs[_key(part)], part.parts + storage) for part in (ratio.over, ratio.under))
                    result[f"{name}_ratio{suffix}"] = above / below
        results.append(result)
    synthesis = next(iter(costs.values()))
    return make_record(command, 0, {"cells": synthesis.cells, "clock_ns": synthesis.clock, "lanes": 1}, results)


def lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    yield "| ratio | paper: area | ours, no storage | with storage | paper: energy | ours, no storage | with storage |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        cells = [result["what"]]
        for name in ("area", "energy"):
            ours = (result.get(f"{name}_ratio{suffix}") for suffix in ("", "_with_storage"))
            cells += [result[f"paper_{name}"], *("" if ratio is None else f"{ratio:.2f}" for ratio in ours)]
        yield f"| {' | '.join(cells)} |"


def _key(part: UnitPart) -> tuple[str, bool]:
    return part.spec.name, part.baked


def _area(synthesis: Synthesis, parts: Sequence[str]) -> float:
    return sum(synthesis.area.get(part, 0.0) for part in parts)


def _energy(synthesis: Synthesis, parts: Sequence[str]) -> float:
    cycle = sum(synthesis.energy[part].cycle(synthesis.clock) for part in parts if part in synthesis.energy)
    return cycle / synthesis.elements


def measured() -> Costs:
    """Synthesise the units in all ratios: one lane, sky130, at its default clock."""
    parts = {_key(part): part for _, ratio in ratios() for part in (ratio.over, ratio.under)}
    return {
        key: synthesize(Form("", part.spec, part.baked).unit(lanes=1, storage="latches"), parts={**PARTS, FRONT: FRONT})
        for key, part in parts.items()
    }


def main() -> None:
    """Measure, print the table, and write the record if --json is given."""
    parser = argparse.ArgumentParser(prog="python -m softmaxkit.studies.papers")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record to this file")
    arguments = parser.parse_args()
    with one_line_errors(parser):
        record = paper_ratios(measured(), ["python", "-m", "softmaxkit.studies.papers", *sys.argv[1:]])
        print("\n".join(lines(record["results"])))
        if arguments.json is not None:
            write_json(arguments.json, record)


if __name__ == "__main__":
    main()
