"""The papers' ratios of area and energy beside ours, without storage and with it, measured in one run.

    python -m softmaxkit.studies.papers

prints the table of docs/silicon.md. Each method says which figures its paper publishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from softmaxkit.flow.synthesize import PARTS, synthesize
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import Form
from softmaxkit.methods.base.published import FRONT, Ratio, UnitPart

if TYPE_CHECKING:
    from softmaxkit.flow.figures import Synthesis

Costs = dict[tuple[str, bool], "Synthesis"]
"""By the name of a spec, and whether its constants are baked in."""


def ratios() -> list[Ratio]:
    """Return the ratios that the methods' papers publish."""
    return [ratio for spec in METHODS.values() for ratio in spec.published_ratios()]


def lines(costs: Costs) -> Iterator[str]:
    """Yield the lines of the table in Markdown.

    Args:
        costs: of the units of all ratios, see `measured`.
    """
    yield "| ratio | paper: area | ours, no storage | with storage | paper: energy | ours, no storage | with storage |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for ratio in ratios():
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


def _area(synthesis: Synthesis, parts: Sequence[str]) -> float:
    return sum(synthesis.area.get(part, 0.0) for part in parts)


def _energy(synthesis: Synthesis, parts: Sequence[str]) -> float:
    cycle = sum(synthesis.energy[part].cycle(synthesis.clock) for part in parts if part in synthesis.energy)
    return cycle / synthesis.elements


def measured() -> Costs:
    """Synthesise the units of all ratios: one lane, sky130, its usual clock."""
    parts = {_key(part): part for ratio in ratios() for part in (ratio.over, ratio.under)}
    return {
        key: synthesize(Form("", part.spec, part.baked).unit(lanes=1, storage="latches"), parts={**PARTS, FRONT: FRONT})
        for key, part in parts.items()
    }


if __name__ == "__main__":
    print("\n".join(lines(measured())))
