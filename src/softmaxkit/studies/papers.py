"""The papers' ratios of area and energy beside ours, storage out and in, measured in one run.

    python -m softmaxkit.studies.papers

prints the table of docs/silicon.md. The published figures are those that the methods answer for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from softmaxkit.flow.synthesize import PARTS, synthesize
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import Form
from softmaxkit.methods.base.published import FRONT, UnitPart

if TYPE_CHECKING:
    from softmaxkit.flow.synthesize import Synthesis

Costs = dict[tuple[str, bool], "Synthesis"]
"""By the name of a spec, and whether its constants are baked in."""


def lines(costs: Costs) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    yield "| ratio | paper: area | ours, no storage | with storage | paper: energy | ours, no storage | with storage |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for ratio in (ratio for spec in METHODS.values() for ratio in spec.published_ratios()):
        cells = [ratio.what]
        for published, cost in ((ratio.area, _area), (ratio.energy, _energy)):
            cells.append(published)
            for with_storage in (False, True):
                over, under = (
                    cost(costs[_key(part)], part.parts + (tuple(PARTS) if with_storage else ()))
                    for part in (ratio.over, ratio.under)
                )
                shown = ratio.over.with_storage or not with_storage
                cells.append(f"{over / under:.2f}" if shown else "")
        yield f"| {' | '.join(cells)} |"


def _key(part: UnitPart) -> tuple[str, bool]:
    return part.spec.name, part.baked


def _area(costs: Synthesis, parts: Sequence[str]) -> float:
    return sum(costs.area.get(part, 0.0) for part in parts)


def _energy(costs: Synthesis, parts: Sequence[str]) -> float:
    cycle = sum(costs.energy[part].cycle(costs.clock) for part in parts if part in costs.energy)
    return cycle / costs.elements


def measured() -> Costs:
    """Synthesise the units of all ratios: one lane, sky130, its usual clock."""
    ratios = [ratio for spec in METHODS.values() for ratio in spec.published_ratios()]
    parts = {_key(part): part for ratio in ratios for part in (ratio.over, ratio.under)}
    return {
        key: synthesize(
            Form("", part.spec, part.baked).unit(lanes=1, storage="latches"), parts={**PARTS, FRONT: FRONT}
        )
        for key, part in parts.items()
    }


if __name__ == "__main__":
    print("\n".join(lines(measured())))
