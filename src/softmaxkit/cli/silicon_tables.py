"""Tables of what hardware costs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

KINDS = ("luts", "carries", "registers", "dsps", "block_rams")
"""What of an FPGA is counted."""


def title_of(result: dict[str, Any]) -> str:
    """Return what a result is called: method, and form or variant."""
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
"""Columns, under headings that several may share."""


def cells_table(results: list[dict[str, Any]]) -> Table:
    """Return a row for each result in standard cells: area, clock, energy and power."""
    table = Table(title="Standard cells: area in um2, energy in pJ for one score", box=SIMPLE_HEAD)
    table.add_column("unit", no_wrap=True)
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
    "Energy rests on which glitches gates swallow: beside it are its bounds, without any and with all of them. "
    "Memories are outside the unit, and are counted in no other column."
)


def remarks(results: list[dict[str, Any]]) -> list[str]:
    """Return what is to be known of the energies, and of the memories outside the units."""
    energy = any("energy_pj_per_element" in result for result in results)
    return [GLITCHES, *memory_lines(results)] if energy else []


def memory_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return a line for each memory outside the units: the macros it is made of, and what of them is used."""
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
    """Return a row for each result in an FPGA: counts of its cells."""
    table = Table(title="FPGA, counts before placement", box=SIMPLE_HEAD)
    table.add_column("unit", no_wrap=True)
    for kind in KINDS:
        table.add_column(kind.replace("_", " "), justify="right")
    for result in results:
        table.add_row(title_of(result), *(f"{result[kind]:,}" for kind in KINDS))
    return table


def placed_table(results: list[dict[str, Any]]) -> Table:
    """Return a row for each result in an FPGA, placed and routed: its clock, and what is used of the device."""
    devices = ", ".join(dict.fromkeys(result["device"] for result in results if "device" in result))
    table = Table(title=f"Placed and routed, frame and row memory included: {devices}", box=SIMPLE_HEAD)
    table.add_column("unit", no_wrap=True)
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
