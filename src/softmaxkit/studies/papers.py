"""The papers' ratios of area and energy beside ours, storage out and in, measured in one run.

    python -m softmaxkit.studies.papers

prints the table of docs/silicon.md. Figures are from arXiv 2402.10930 (ConSmax), its comparison of units, and arXiv
2103.09301 (Softermax), its comparison with a DesignWare softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from softmaxkit.flow.synthesize import PARTS, synthesize
from softmaxkit.methods.consmax import ConSmax
from softmaxkit.methods.exact import Exact
from softmaxkit.methods.softermax import Softermax

if TYPE_CHECKING:
    from softmaxkit.flow.synthesize import Synthesis

FRONT, REST = "front", "datapath"
STORED = tuple(PARTS)


class Side(NamedTuple):
    """A unit, or parts of it: what counts, and what is storage beside it."""

    unit: str
    parts: tuple[str, ...]
    stored: tuple[str, ...] = STORED


class Claim(NamedTuple):
    """A published ratio.

    Attributes:
        what: in words.
        paper: its area and energy (of power, where it gives no energy), as ratios.
        over, under: what of ours is divided by what.
    """

    what: str
    paper: tuple[str, str]
    over: Side
    under: Side


WHOLE = (REST, FRONT)
CLAIMS = (
    Claim(
        "Softermax over ConSmax (16 nm, commercial; open 130 nm)",
        ("2.75; 2.2", "3.5; 4.4"),
        Side("softermax", WHOLE),
        Side("consmax, loadable", WHOLE),
    ),
    Claim(
        "the same, ConSmax with constant tables", ("", ""), Side("softermax", WHOLE), Side("consmax, constant", WHOLE)
    ),
    Claim(
        "softmax in FP16 over ConSmax (16 nm, commercial; open 130 nm)",
        ("13.75; 13.3", "7.5; 15.3"),
        Side("exact", WHOLE),
        Side("consmax, loadable", WHOLE),
    ),
    Claim("the same, ConSmax with constant tables", ("", ""), Side("exact", WHOLE), Side("consmax, constant", WHOLE)),
    Claim(
        "Softermax over softmax in FP16, unnormalised part (7 nm)",
        ("0.25", "0.10"),
        Side("softermax", (FRONT,), ()),
        Side("exact", (FRONT,), ()),
    ),
    Claim(
        "the same, normalisation",
        ("0.65", "0.39"),
        Side("softermax", (REST,), ()),
        Side("exact", (REST,), ()),
    ),
)


def lines(found: dict[str, Synthesis]) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    yield "| ratio | paper: area | ours, no storage | with storage | paper: energy | ours, no storage | with storage |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for claim in CLAIMS:
        cells = [claim.what]
        for paper, cost in zip(claim.paper, (_area, _energy), strict=True):
            cells.append(paper)
            for stored in (False, True):
                over, under = (
                    cost(found[side.unit], side.parts + (side.stored if stored else ())) for side in claim[2:]
                )
                same = stored and not claim.over.stored
                cells.append("" if same else f"{over / under:.2f}")
        yield f"| {' | '.join(cells)} |"


def _area(found: Synthesis, parts: Sequence[str]) -> float:
    return sum(found.area.get(part, 0.0) for part in parts)


def _energy(found: Synthesis, parts: Sequence[str]) -> float:
    cycle = sum(found.energy[part].cycle(found.clock) for part in parts if part in found.energy)
    return cycle / found.elements


def measured() -> dict[str, Synthesis]:
    """Synthesise the four units: one lane, sky130, its usual clock."""
    parts = {**PARTS, FRONT: FRONT}
    constant = ConSmax()
    units = {
        "consmax, constant": constant.unit(lanes=1, constants=constant.constants()),
        "consmax, loadable": constant.unit(lanes=1, storage="latches"),
        "softermax": Softermax().unit(lanes=1, storage="latches"),
        "exact": Exact().unit(lanes=1, storage="latches"),
    }
    return {name: synthesize(unit, parts=parts) for name, unit in units.items()}


if __name__ == "__main__":
    print("\n".join(lines(measured())))
