"""Published hardware figures of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec

FRONT, REST = "front", "datapath"
"""Parts of a unit, see `softmaxkit.flow.synthesize.PARTS`: the component "front", and all other logic but storage."""
WHOLE = (REST, FRONT)


class Published(NamedTuple):
    """A unit as a paper reports it.

    Attributes:
        title: the paper's name of the unit.
        process: e.g. "sky130" or "16 nm".
        tools: "open" or "commercial".
        area_um2, fmax_mhz, power_mw, energy_pj: figures of the paper; energy per operation.
        source: the paper and the place in it.
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
    """Numerator or denominator of a ratio: a unit, or parts of one.

    Attributes:
        spec: the spec of the unit.
        baked: whether its constants are baked in.
        parts: the parts that are counted.
        with_storage: whether the ratio is also reported with row buffer and tables included.
    """

    spec: Spec
    baked: bool = False
    parts: tuple[str, ...] = WHOLE
    with_storage: bool = True


class Ratio(NamedTuple):
    """A published ratio between two units.

    Attributes:
        what: description of the ratio.
        area, energy: the paper's ratios, as text; power where it gives no energy; empty where it gives neither.
        over, under: our numerator and denominator.
    """

    what: str
    area: str
    energy: str
    over: UnitPart
    under: UnitPart


CONSMAX_PAPER = "arXiv 2402.10930, table of results, rows of 256 scores"
"""Source of the figures of several methods, which the ConSmax paper compares."""


def consmax_paper(title: str, *rows: tuple[str, str, float, float, float, float]) -> tuple[Published, ...]:
    """Return a unit's figures from the ConSmax paper; each row is (process, tools, MHz, mm2, mW, pJ)."""
    return tuple(
        Published(title, process, tools, round(mm2 * 1e6), mhz, mw, pj, CONSMAX_PAPER)
        for process, tools, mhz, mm2, mw, pj in rows
    )


def ratio_text(over: tuple[Published, ...], under: tuple[Published, ...], figure: str) -> str:
    """Format the ratios of a figure in the ConSmax paper: commercial tools in 16 nm, then open tools in sky130."""
    rows = [("16 nm", "commercial"), ("sky130", "open")]
    values = [
        [getattr(unit, figure) for unit in units for row in rows if (unit.process, unit.tools) == row]
        for units in (over, under)
    ]
    return "; ".join(f"{above / below:.4g}" for above, below in zip(*values, strict=True))
