"""Published figures of a method's hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec

FRONT, REST = "front", "datapath"
"""Parts of a unit, see `softmaxkit.flow.synthesize.PARTS`: its component of that name, and all that is no storage."""
WHOLE = (REST, FRONT)


class Published(NamedTuple):
    """A unit as a paper reports it.

    Attributes:
        title: the paper's name for it.
        process: e.g. "sky130" or "16 nm".
        tools: "open" or "commercial".
        area_um2, fmax_mhz, power_mw, energy_pj: the paper's; energy of one operation.
        source: the paper, and where in it.
    """

    title: str
    process: str
    tools: str
    area_um2: float
    fmax_mhz: float
    power_mw: float
    energy_pj: float
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return self._asdict()


class UnitPart(NamedTuple):
    """A unit, or parts of it, in a ratio.

    Attributes:
        spec: the method.
        baked: are its constants baked in?
        parts: what counts of it.
        with_storage: is the ratio also of interest with row buffer and tables counted?
    """

    spec: Spec
    baked: bool = False
    parts: tuple[str, ...] = WHOLE
    with_storage: bool = True


class Ratio(NamedTuple):
    """A published ratio of two units.

    Attributes:
        what: in words.
        area, energy: as the paper has them; of power, where it gives no energy. Empty where it has none.
        over, under: what of ours is divided by what.
    """

    what: str
    area: str
    energy: str
    over: UnitPart
    under: UnitPart


CONSMAX_PAPER = "arXiv 2402.10930, table of results, rows of 256 scores"
"""Where the figures of several methods are from: the ConSmax paper compares them."""


def consmax_paper(title: str, *rows: tuple[str, str, float, float, float, float]) -> tuple[Published, ...]:
    """Return a unit's figures in the ConSmax paper: (process, tools, MHz, mm2, mW, pJ) of each row."""
    return tuple(
        Published(title, process, tools, round(mm2 * 1e6), mhz, mw, pj, CONSMAX_PAPER)
        for process, tools, mhz, mm2, mw, pj in rows
    )


def ratio_text(over: tuple[Published, ...], under: tuple[Published, ...], figure: str) -> str:
    """Return the ratios of a figure in the ConSmax paper: with commercial tools in 16 nm, and open ones in sky130."""
    rows = [("16 nm", "commercial"), ("sky130", "open")]
    values = [
        [getattr(unit, figure) for unit in units for row in rows if (unit.process, unit.tools) == row]
        for units in (over, under)
    ]
    return "; ".join(f"{above / below:.4g}" for above, below in zip(*values, strict=True))
