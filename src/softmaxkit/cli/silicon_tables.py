"""Tables of hardware costs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

KINDS = ("luts", "carries", "registers", "dsps", "block_rams")
"""The FPGA resources that are counted."""


def title_of(result: dict[str, Any]) -> str:
    """Return the name of a result: method, and form or variant."""
    return " ".join(filter(None, (result["method"], result["form"] or result["variant"])))


HEADINGS = {
    "area": ("datapath", "tables", "row buffer", "memory"),
    "clock\nMHz": ("",),
    "fastest netlist\nMHz": ("", "area"),
    "energy": ("no buffer", "unit", "memory"),
    "unit, with\nglitches": ("none", "all"),
    "power\nmW": ("",),
    "compared": ("",),
}
"""Columns of `cells_table`, grouped under headings."""


def cells_table(results: list[dict[str, Any]]) -> Table:
    """Return a table of results in standard cells, a row each: area, clock, energy and power."""
    table = Table(title="Standard cells: area in um2, energy in pJ per score", box=SIMPLE_HEAD)
    table.add_column("unit")
    for heading, columns in HEADINGS.items():
        for place, column in enumerate(columns):
            table.add_column(f"{'' if place else heading}\n{column}".rstrip("\n"), justify="right")
    for result in results:
        table.add_row(
            title_of(result),
            *(f"{result.get(f'area_{part}_um2', 0):,.0f}" for part in ("datapath", "tables", "row_buffer")),
            _written(result, "memory_area_um2", ",.0f"),
            *(_written(result, key, ",.0f") for key in ("fmax_mhz", "fastest_mhz", "area_of_fastest_um2")),
            *(
                _written(result, key, ",.3g")
                for key in (
                    "energy_without_row_buffer_pj_per_element",
                    "energy_pj_per_element",
                    "memory_energy_pj_per_element",
                    "energy_without_glitches_pj_per_element",
                    "energy_with_all_glitches_pj_per_element",
                    "power_mw",
                )
            ),
            f"{result['compared'] - result['mismatches']:,}" if "compared" in result else "–",
        )
    return table


def _written(result: dict[str, Any], key: str, specification: str) -> str:
    return format(result[key], specification) if key in result else "–"


GLITCHES = (
    "Energy depends on which glitches gates filter out; the columns next to it bound it, without any glitches and with "
    "all. Memories are outside the unit and not included in any other column."
)


def remarks(results: list[dict[str, Any]]) -> list[str]:
    """Return the notes below a table: on energies, and on the memories outside the units."""
    energy = any("energy_pj_per_element" in result for result in results)
    return [GLITCHES, *memory_lines(results)] if energy else []


def memory_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return a line for each memory outside the units: its macros, and the share of them that is used."""
    lines = []
    for result in results:
        for name, memory in result.get("memories", {}).items():
            macros, clock = memory["across"] * memory["along"], result.get("memory_fmax_mhz")
            slow = f", up to {clock:,.0f} MHz" if clock is not None and clock * result["clock_ns"] < 1e3 else ""
            lines.append(
                f"{title_of(result)}, {name}: {memory['depth_words']} words of {memory['width_bits']} bits in {macros} "
                f"{memory['macro']}, {memory['used_percent']:.0f}% used{slow}"
            )
    return lines


def counts_table(results: list[dict[str, Any]]) -> Table:
    """Return a table of results for an FPGA, a row each: counts of cells before placement."""
    table = Table(title="FPGA, counts before placement", box=SIMPLE_HEAD)
    table.add_column("unit")
    for kind in KINDS:
        table.add_column(kind.replace("_", " "), justify="right")
    for result in results:
        table.add_row(title_of(result), *(f"{result[kind]:,}" for kind in KINDS))
    return table


def placed_table(results: list[dict[str, Any]]) -> Table:
    """Return a table of placed and routed results for an FPGA, a row each: clock, and resources used."""
    devices = ", ".join(dict.fromkeys(result["device"] for result in results if "device" in result))
    table = Table(title=f"Placed and routed, including frame and row memory: {devices}", box=SIMPLE_HEAD)
    table.add_column("unit")
    for heading in ("clock\nMHz", *(kind.replace("_", "\n") for kind in KINDS)):
        table.add_column(heading, justify="right")
    for result in results:
        if "unplaced" in result:
            table.add_row(title_of(result), "does not fit", *("–" for _ in KINDS))
            continue
        counts = (
            f"{result[f'placed_{kind}']:,}"
            + (f" of {result[f'device_{kind}']:,}" if f"device_{kind}" in result else "")
            for kind in KINDS
        )
        table.add_row(title_of(result), f"{result['fmax_mhz']:,.1f}", *counts)
    return table
