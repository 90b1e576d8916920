"""The HTML page of an accelerator simulation: curves over the context, timelines of an engine, and energy by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from softmaxkit.record import amount
from softmaxkit.report.methods import read_methods
from softmaxkit.report.page import Plot, fill
from softmaxkit.report.sheets import Sheet, sheet_json
from softmaxkit.report.simulation_charts import by_part, curve, gantt

Result = Mapping[str, Any]

COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("cycles", "Cycles", "{:,}".format),
    ("seconds", "Time, s", "{:.3g}".format),
    ("energy_uj_per_token", "Energy per token, µJ", amount),
    ("area_mm2", "Area, mm²", partial(amount, digits=3)),
    ("computed_cycles", "Cycles without memory stalls", "{:,}".format),
    ("stall_percent", "of these stalled on the last rows, %", "{:.1f}".format),
    ("utilization_percent", "Multiplier utilisation, %", "{:.1f}".format),
    ("memory_percent", "Waiting for memory, %", "{:.1f}".format),
    ("unit_percent", "for the unit, %", "{:.1f}".format),
    ("drain_percent", "for the last rows, %", "{:.1f}".format),
)
CHIPS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("chips", "Chips", "{:,}".format),
    ("exchanges", "Exchanges", "{}".format),
    ("bytes_per_query", "Bytes per query", "{:,}".format),
    ("waiting_seconds", "Waiting, s", "{:.3g}".format),
    ("seconds", "Time, s", "{:.3g}".format),
    ("energy_uj", "Energy, µJ", amount),
)


def render_simulation(record: Mapping[str, Any]) -> str:
    """Render the record of a simulation as a self-contained HTML page.

    Args:
        record: the JSON object that `softmaxkit simulate` writes.
    """
    inputs, results = record["inputs"], record["results"]
    methods = read_methods(record, [result["method"] for result in results])
    names = [name_of(result, methods[result["method"]].title) for result in results]
    contexts = sorted({result["context"] for result in results})
    curves = {
        "seconds": "time, s",
        "computed_cycles": "cycles without memory stalls",
        "energy_uj_per_token": "energy per token, µJ",
        "utilization_percent": "multiplier utilisation, %",
    }
    drawn = [(title, curve(results, names, methods, key)) for key, title in curves.items()] if len(contexts) > 1 else []
    timelines = [
        (f"{name}, {result['context']:,} keys", result["series"]["timeline"])
        for name, result in zip(names, results, strict=True)
        if result["series"]["timeline"] and result["context"] == contexts[0]
    ]
    priced = [
        place for place, result in enumerate(results) if "energy_uj" in result and result["context"] == contexts[-1]
    ]
    parts = by_part([results[place] for place in priced], [names[place] for place in priced])
    split = [
        (name, f"{result['context']:,}", system)
        for name, result in zip(names, results, strict=True)
        for system in result.get("chips", ())
    ]
    return fill(
        "simulation.html.j2",
        record,
        model=inputs["model"],
        hardware=inputs["hardware"],
        phase=inputs["phase"],
        left_out=layers_left_out(results),
        headings=[heading for _, heading, _ in COLUMNS],
        rows=[
            (name, f"{result['context']:,}", [_shown(result, key, write) for key, _, write in COLUMNS])
            for name, result in zip(names, results, strict=True)
        ],
        sheet=sheet_json(_sheet(names, results)),
        chip_headings=[heading for _, heading, _ in CHIPS],
        chip_rows=[
            (name, context, [_shown(system, key, write) for key, _, write in CHIPS]) for name, context, system in split
        ],
        missing=missing_records(results),
        sources=_sources(names, results),
        context=contexts[-1],
        plots={
            "curves": [Plot.of(figure, title) for title, figure in drawn if figure],
            "timeline": [Plot.of(gantt(shown), title) for title, shown in timelines],
            "parts": [Plot.of(parts)] if parts else [],
        },
    )


def layers_left_out(results: Sequence[Result]) -> list[str]:
    """Return lines such as "13 of 26 layers; 13 with windows left out", which describe the layers not simulated.

    Contexts with the same layers share a line; there is no line for contexts that include all layers.
    """
    lines: dict[int, str] = {}
    for result in results:
        if left_out := result.get("left_out"):
            others = ", ".join(f"{count} {what}" for what, count in left_out.items())
            total = result["layers"] + sum(left_out.values())
            lines[result["context"]] = f"{result['layers']} of {total} layers; {others} left out"
    if len({lines.get(result["context"]) for result in results}) == 1:
        return list(dict.fromkeys(lines.values()))
    return [
        f"at {', '.join(f'{context:,}' for context in lines if lines[context] == line)}: {line}"
        for line in dict.fromkeys(lines.values())
    ]


def missing_records(results: Sequence[Result]) -> list[str]:
    """Return a line for each command that makes missing records: the reasons why it is needed, and the command."""
    commands: dict[str, dict[str, None]] = {}
    for result in results:
        for missing in result.get("without_energy", ()):
            commands.setdefault(missing["command"], {}).update(dict.fromkeys(missing["reasons"]))
    return [f"no total energy: {'; '.join(reasons)}; run {command}" for command, reasons in commands.items()]


def name_of(result: Result, title: str) -> str:
    """Return the name of a result: method, variant and pipeline."""
    return " ".join(filter(None, (title, result["variant"], result["pipeline"])))


def _shown(values: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> str:
    return write(values[key]) if key in values else "–"


def _sheet(names: Sequence[str], results: Sequence[Result]) -> Sheet:
    """Return the figures for export, with all digits."""
    keys = [key for key, *_ in COLUMNS]
    rows = [
        [name, result["context"], *(result.get(key) for key in keys)]
        for name, result in zip(names, results, strict=True)
    ]
    return Sheet(["method", "context", *keys], rows)


def _sources(names: Sequence[str], results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Return each part with each source of its figures and the methods and pipelines that use it, grouped by part."""
    users: dict[tuple[str, str], dict[str, None]] = {}
    for name, result in zip(names, results, strict=True):
        for pair in result.get("sources", {}).items():
            users.setdefault(pair, {})[name] = None
    parts = [part for part, _ in users]
    return [
        (part, source, "all" if len(users[part, source]) == len(set(names)) else ", ".join(users[part, source]))
        for part, source in sorted(users, key=lambda pair: parts.index(pair[0]))
    ]
