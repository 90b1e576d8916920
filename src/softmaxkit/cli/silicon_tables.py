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


def cells_table(results: list[dict[str, Any]]) -> Table:
    """Return a row for each result in standard cells: area, clock, energy and power."""
    table = Table(title="Standard cells: area in um2, energy in pJ for one score", box=SIMPLE_HEAD)
    table.add_column("unit", no_wrap=True)
    headings = (
        "area\ndatapath",
        "\ntables",
        "\nrow buffer",
        "clock\nMHz",
        "fastest netlist\nMHz",
        "\narea",
        "energy\nno buffer",
        "\nwith it",
    )
    for heading in (*headings, "of that\nclock", "power\nmW", "compared"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            title_of(result),
            *(f"{result.get(f'area_{part}_um2', 0):,.0f}" for part in ("datapath", "tables", "row_buffer")),
            f"{result['fmax_mhz']:,.0f}",
            f"{result['fastest_mhz']:,.0f}",
            f"{result['area_of_fastest_um2']:,.0f}",
            *(
                f"{result[key]:,.3g}" if key in result else "–"
                for key in (
                    "energy_without_row_buffer_pj_per_element",
                    "energy_pj_per_element",
                    "clock_energy_pj_per_element",
                    "power_mw",
                )
            ),
            f"{result['compared'] - result['mismatches']:,}" if "compared" in result else "–",
        )
    return table


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
