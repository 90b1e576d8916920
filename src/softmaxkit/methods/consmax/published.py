"""What the ConSmax paper publishes about its own unit, and about the other units next to it."""

from __future__ import annotations

from softmaxkit.methods.base.published import Ratio, UnitPart, consmax_paper, ratio_text

FIGURES = consmax_paper(
    "ConSmax",
    ("16 nm", "commercial", 1250, 0.0008, 0.2, 0.2),
    ("130 nm", "commercial", 667, 0.007, 2.69, 4),
    ("16 nm", "open", 2000, 0.0009, 0.683, 0.3),
    ("sky130", "open", 167, 0.015, 1.82, 16.7),
)


def ratios() -> list[Ratio]:
    """Return the ratios of the paper's other units to its own, with loadable and with constant tables."""
    from softmaxkit.methods.consmax.spec import ConSmax
    from softmaxkit.methods.exact import Exact
    from softmaxkit.methods.softermax import Softermax

    published = []
    for name, other in (("Softermax", Softermax()), ("softmax in FP16", Exact())):
        area, energy = (ratio_text(other.published, FIGURES, key) for key in ("area_um2", "energy_pj"))
        what = f"{name} over ConSmax (16 nm, commercial; open 130 nm)"
        published += [
            Ratio(what, area, energy, UnitPart(other), UnitPart(ConSmax())),
            Ratio("the same, ConSmax with constant tables", "", "", UnitPart(other), UnitPart(ConSmax(), baked=True)),
        ]
    return published
