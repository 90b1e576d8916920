"""Tables of what hardware costs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


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
    kinds = ("luts", "registers", "dsps", "block_rams")
    for kind in kinds:
        table.add_column(kind.replace("_", " "), justify="right")
    for result in results:
        table.add_row(title_of(result), *(f"{result[kind]:,}" for kind in kinds))
    return table
