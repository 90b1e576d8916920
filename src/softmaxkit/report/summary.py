"""Figures over seeds: mean, spread, and the number of diverged training runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def summary(results: Sequence[Result], figure: str) -> list[dict[str, Any]]:
    """Summarise a figure over seeds, for every method, variant, mode and settings among the results.

    Returns:
        Dicts of `method`, `variant`, `mode` and `settings`; `mean`; `spread`, the standard deviation, None for a single
        seed; `seeds`, the number of seeds with the figure; `diverged`, the number that diverged.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        key = repr((result["method"], result["variant"], result["mode"], result["settings"]))
        groups.setdefault(key, []).append(result)
    summaries = []
    for members in groups.values():
        values = [result[figure] for result in members if result.get(figure) is not None]
        summaries.append(
            {key: members[0][key] for key in ("method", "variant", "mode", "settings")}
            | {
                "mean": statistics.fmean(values) if values else None,
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "seeds": len(values),
                "diverged": sum("diverged" in result for result in members),
            }
        )
    return summaries


def shown(value: Mapping[str, Any], digits: int, unit: str = "") -> str:
    """Return a mean and its spread over seeds as text; empty if there is neither a mean nor a diverged run."""
    diverged = f"{value['diverged']} of {value['diverged'] + value['seeds']} diverged" if value["diverged"] else ""
    if value["mean"] is None:
        return diverged
    mean = round(value["mean"], digits) or 0.0  # no minus before a zero
    spread = "" if value["spread"] is None else f" ± {value['spread']:.{digits}f}"
    return f"{mean:{'+' if unit else ''}.{digits}f}{unit}{spread}" + (f" ({diverged})" if diverged else "")


def setting(settings: Mapping[str, Any]) -> str:
    """Return the varied settings as text."""
    return ", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings.items())
