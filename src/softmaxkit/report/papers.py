"""Published figures beside ours: what the papers say of each unit, and what was measured here."""

from collections.abc import Sequence
from typing import NamedTuple

from softmaxkit.report.columns import number
from softmaxkit.report.record import Variant


class Published(NamedTuple):
    """A unit as the ConSmax paper reports it, with open tools in SkyWater 130 nm (arXiv 2402.10930, table of results).

    Attributes:
        method: of the record.
        title: the paper's name.
        area_um2, fmax_mhz, energy_pj: the paper's.
    """

    method: str
    title: str
    area_um2: float
    fmax_mhz: float
    energy_pj: float


PUBLISHED = (
    Published("consmax", "ConSmax", 15_000, 167, 16.7),
    Published("softermax", "Softermax", 33_000, 143, 73.5),
    Published("exact", "softmax (FP16, DesignWare)", 200_000, 88, 255.3),
)

HEADINGS = ("paper", "ours")
_area, _energy, _clock = number(",.0f", " µm²"), number(",.3g", " pJ"), number(",.0f", " MHz")
_ratio = number(".3g", "×")


class Comparison(NamedTuple):
    """One line of the table: what is compared, the paper's figure, and ours."""

    what: str
    cells: Sequence[str]


def against_papers(variants: Sequence[Variant]) -> list[Comparison]:
    """Return the lines of the table; none where no two of the published methods were synthesised for sky130."""
    measured = {}
    for each in PUBLISHED:
        of_method = [v for v in variants if v.method == each.method and not v.name]
        result = of_method[0].results.get("integer", {}) if of_method else {}
        if result.get("cells") == "sky130" and "energy_pj_per_element" in result:
            measured[each.method] = result
    shown = [each for each in PUBLISHED if each.method in measured]
    if len(shown) < 2:
        return []
    lines = []
    for each in shown:
        ours = measured[each.method]
        lines += [
            Comparison(f"{each.title}, area", (_area(each.area_um2), _area(ours["area_um2"]))),
            Comparison(
                f"{each.title}, energy of one score",
                (_energy(each.energy_pj), _energy(ours["energy_pj_per_element"])),
            ),
            Comparison(f"{each.title}, clock", (_clock(each.fmax_mhz), _clock(ours["fastest_mhz"]))),
        ]
    first = shown[0]
    for each in shown[1:]:
        for what, figure, key in (
            ("area", "area_um2", "area_um2"),
            ("energy", "energy_pj", "energy_pj_per_element"),
        ):
            paper = getattr(each, figure) / getattr(first, figure)
            ratio = measured[each.method][key] / measured[first.method][key]
            lines.append(Comparison(f"{each.title} over {first.title}, {what}", (_ratio(paper), _ratio(ratio))))
    return lines
