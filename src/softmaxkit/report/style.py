"""Colours and layout shared by all charts of a report.

The page's script reads a layout's `meta`, which Plotly ignores: `narrow` overrides parts of the layout on narrow
screens, below a chart width of `narrow_below` pixels; `labels` are placed without overlap, avoiding `line` and `bars`;
`scales` are an axis's logarithmic and linear ranges.
"""

from typing import Any

# Grey is exact softmax in every chart. The further colours, for methods that define none, are from the colour-blind
# safe palette of Okabe and Ito.
REFERENCE_COLOUR = "#7d8791"
FURTHER_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9")

DISTRIBUTION_COLOUR = "rgba(125, 135, 145, 0.28)"
REFERENCE_BAND_COLOUR = "rgba(125, 135, 145, 0.45)"
GRID_COLOUR = "#e4e7eb"
AXIS_COLOUR = "#9aa4ae"
TEXT_COLOUR = "#1d2329"
PAPER_COLOUR = "#ffffff"
LABEL_BACKGROUND = "rgba(255, 255, 255, 0.85)"
DARK_COLOURS = {
    GRID_COLOUR: "#2b333b",
    AXIS_COLOUR: "#6d7883",
    TEXT_COLOUR: "#e4e8ec",
    PAPER_COLOUR: "#14181c",
    LABEL_BACKGROUND: "rgba(20, 24, 28, 0.85)",
}
"""Replacements with which the page's script redraws charts for readers whose system prefers a dark scheme."""

FONT_FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def base_layout(height: int, **settings: Any) -> dict[str, Any]:
    """Return the base layout of all charts, with a transparent background."""
    return {
        "template": "none",
        "height": height,
        "font": {"family": FONT_FAMILY, "size": 12, "color": TEXT_COLOUR},
        "margin": {"l": 64, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": PAPER_COLOUR, "bordercolor": GRID_COLOUR, "font": {"color": TEXT_COLOUR}},
        "showlegend": False,
        **settings,
    }


def axis(**settings: Any) -> dict[str, Any]:
    """Return an axis with a faint grid and no zero line, not zoomable unless `fixedrange` is false."""
    title = settings.pop("title", None)
    named = {} if title is None else {"title": {"text": title} if isinstance(title, str) else title}
    return {"gridcolor": GRID_COLOUR, "zeroline": False, "automargin": True, "fixedrange": True, **named, **settings}


def percent(value: float) -> str:
    """Return a percentage as an axis tick label."""
    return "0" if value == 0 else f"{value:+g}%".replace("-", "−")
