"""What every chart of the report shares: colours, labels and layout."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from softmaxkit.report.record import REFERENCE, Variant

Colours = Mapping[str, str]

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey stands for real softmax everywhere.
REFERENCE_COLOUR = "#7d8791"
_COLOURS = {"consmax": "#0072b2", "softermax": "#d55e00", "exaq": "#009e73"}
FURTHER_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9")

DISTRIBUTION_COLOUR = "rgba(125, 135, 145, 0.28)"
REFERENCE_BAND_COLOUR = "rgba(125, 135, 145, 0.45)"
GRID_COLOUR = "#e4e7eb"
AXIS_COLOUR = "#9aa4ae"
TEXT_COLOUR = "#1d2329"
FONT_FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def method_colours(variants: Sequence[Variant]) -> dict[str, str]:
    """Return one colour for each method, the same in every report for the methods known by name."""
    colours = {REFERENCE: REFERENCE_COLOUR, **_COLOURS}
    unknown = dict.fromkeys(variant.method for variant in variants if variant.method not in colours)
    colours.update(
        (method, FURTHER_COLOURS[position % len(FURTHER_COLOURS)]) for position, method in enumerate(unknown)
    )
    return colours


def label(variant: Variant, separator: str = " ", width: int = 40) -> str:
    """Return a variant's name as plotly's markup, the method in bold and a long name shortened."""
    method, name = (html.escape(textwrap.shorten(text, width, placeholder="…")) for text in variant[:2])
    bold = f"<b>{html.escape(variant.title)}</b>" if variant.title != variant.method else f"<b>{method}</b>"
    return f"{bold}{separator}{name}" if name else bold


def base_layout(height: int, **settings: Any) -> dict[str, Any]:
    """Return the layout that all charts start from; its background is the page's."""
    return {
        "template": "none",
        "height": height,
        "font": {"family": FONT_FAMILY, "size": 12, "color": TEXT_COLOUR},
        "margin": {"l": 64, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": GRID_COLOUR, "font": {"color": TEXT_COLOUR}},
        "showlegend": False,
        **settings,
    }


def axis(**settings: Any) -> dict[str, Any]:
    """Return an axis drawn lightly: faint grid, no zero line."""
    return {"gridcolor": GRID_COLOUR, "zeroline": False, "automargin": True, **settings}
