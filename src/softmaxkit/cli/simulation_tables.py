"""Tables of simulated attention."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import name_of
from softmaxkit.record import amount


def simulation_table(record: dict[str, Any]) -> Table:
    """Return a table with a row per method, pipeline and context."""
    from softmaxkit.report.simulation import layers_left_out

    inputs, results = record["inputs"], record["results"]
    unit = "token" if inputs["phase"] == "generation" else "prompt"
    title = f"Attention of {inputs['model']['name']} on {inputs['hardware']['name']}, per {unit}"
    title = "\n".join([title, *layers_left_out(results)])
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("method")
    table.add_column("pipeline")
    for heading in (
        "context",
        "cycles",
        "time, s",
        "energy, uJ",
        "area, mm2",
        "cycles without\nmemory stalls",
        "stall, %\nof these",
        "utilisation, %",
        "waiting, %:\nmemory",
        "\nunit",
        "\ndrain",
    ):
        table.add_column(heading, justify="right")
    for result in results:
        known = "energy_uj" in result
        table.add_row(
            name_of(result),
            result["pipeline"],
            f"{result['context']:,}",
            f"{result['cycles']:,}",
            f"{result['seconds']:.3g}",
            amount(result["energy_uj"]) if known else "–",
            amount(result["area_mm2"], 3) if known else "–",
            f"{result['computed_cycles']:,}",
            f"{result['stall_percent']:.1f}",
            f"{result['utilization_percent']:.1f}",
            *(f"{result[f'{name}_percent']:.1f}" for name in ("memory", "unit", "drain")),
        )
    return table


def energy_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return a line with the energies by part for each result, and the reasons why totals are missing."""
    from softmaxkit.report.simulation import missing_records

    notes = []
    for result in results:
        parts = sorted(result["energy_uj_by_part"].items(), key=lambda part: -part[1])
        amounts = ", ".join(f"{name} {amount(energy)}" for name, energy in parts)
        notes.append(f"energy in uJ, {name_of(result)} {result['pipeline']} at {result['context']:,}: {amounts}")
    return [*notes, *missing_records(results)]


def chips_table(results: list[dict[str, Any]]) -> Table:
    """Return a table with a row per number of chips: the data that a query exchanges, and the time that takes."""
    table = Table(title="Keys split over chips", box=SIMPLE_HEAD)
    table.add_column("method")
    table.add_column("pipeline")
    for heading in ("context", "chips", "exchanges", "bytes per query", "waiting, us", "time, s", "energy, uJ"):
        table.add_column(heading, justify="right")
    for result in results:
        for system in result["chips"]:
            table.add_row(
                name_of(result),
                result["pipeline"],
                f"{result['context']:,}",
                f"{system['chips']:,}",
                str(system["exchanges"]),
                f"{system['bytes_per_query']:,}",
                f"{1e6 * system['waiting_seconds']:,.2f}",
                f"{system['seconds']:.3g}",
                amount(system["energy_uj"]) if "energy_uj" in system else "–",
            )
    return table
