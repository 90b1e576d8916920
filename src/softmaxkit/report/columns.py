"""The columns of the results table: a single list defines which figures are shown, and how."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from softmaxkit.record import ratio
from softmaxkit.report.record import MODES, Result, Variant, finite
from softmaxkit.report.sheets import Sheet

ABSENT = "–"


class Cell(NamedTuple):
    """A table cell: a figure, and a smaller remark below it, e.g. its spread over seeds."""

    text: str
    remark: str = ""


class Column(NamedTuple):
    """A figure of a result and how the table shows it.

    A column with `both_modes` shows the floating-point and integer figures next to each other; any other shows the
    integer figure if there is one, else the floating-point figure. `further` are the keys that the remark uses.
    """

    key: str
    heading: str
    format: Callable[[Any], str]
    explanation: str
    both_modes: bool = False
    remark: Callable[[Result], str] = lambda result: ""
    further: tuple[str, ...] = ()


def number(specification: str | Callable[[float], str], unit: str = "") -> Callable[[Any], str]:
    """Return a function that formats a figure by a format specification or function, with a true minus sign."""

    def write(value: Any) -> str:
        if value is None:
            return ABSENT
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        text = specification(value) if callable(specification) else format(value, specification)
        nothing = not any(digit in text for digit in "123456789")
        return (text.lstrip("+-") if nothing else text).replace("-", "−") + unit

    return write


change = number("+,.2f", "%")
_sum = number(".3f")
_times = number(ratio, "×")


def _range(least_key: str, greatest_key: str, write: Callable[[Any], str]) -> Callable[[Result], str]:
    def remark(result: Result) -> str:
        least, greatest = result.get(least_key), result.get(greatest_key)
        return "" if least is None or greatest is None else f"{write(least)} to {write(greatest)}"

    return remark


def _glitches(result: Result) -> str:
    ends = [result.get(f"energy_{which}_glitches_pj_per_element") for which in ("without", "with_all")]
    return "" if None in ends else " to ".join(f"{end:,.1f}" for end in ends)


def _fastest(result: Result) -> str:
    clock, area = result.get("fastest_mhz"), result.get("area_of_fastest_um2")
    return "" if clock is None or area is None else f"{clock:,.0f} at {area:,.0f} µm²"


def _spread(key: str, write: Callable[[Any], str]) -> Callable[[Result], str]:
    def remark(result: Result) -> str:
        spread = spread_of(result, key)
        return "" if spread is None else f"± {write(spread)}"

    return remark


def spread_of(result: Result, key: str) -> float | None:
    """Return the standard deviation of a figure over the seeds; None for a single seed, or if it is unknown."""
    spread = finite(result.get(f"{key}_spread"))
    return None if spread is None or spread < 0 or len(seeds_of(result)) == 1 else spread


def seeds_of(result: Result) -> Sequence[Any]:
    """Return the seeds over which a result is averaged; empty for records without the key, which have one seed."""
    seeds = result.get("seeds")
    return seeds if isinstance(seeds, list | tuple) else ()


COLUMNS = (
    Column(
        "loss_nats",
        "Loss, nats",
        number(",.4f"),
        "mean cross-entropy of the next token on held-out text; lower is better",
        both_modes=True,
        remark=_spread("loss_nats", number(",.4f")),
        further=("loss_nats_spread",),
    ),
    Column(
        "loss_change_percent",
        "Change in loss",
        change,
        "relative to exact softmax in floating point",
        both_modes=True,
        remark=_spread("loss_change_percent", number(",.2f", "%")),
        further=("loss_change_percent_spread",),
    ),
    Column("perplexity", "Perplexity", number(",.3f"), "the exponential of the loss", both_modes=True),
    Column(
        "words_right_percent",
        "Words right",
        number(".2f", "%"),
        "words of held-out text whose every token is the model's top prediction",
        both_modes=True,
    ),
    Column(
        "row_sum_mean",
        "Row sum",
        _sum,
        "sum of a row of attention probabilities: mean and range; 1 for exact softmax",
        remark=_range("row_sum_min", "row_sum_max", _sum),
        further=("row_sum_min", "row_sum_max"),
    ),
    Column(
        "saturated_scores_percent",
        "Saturated",
        number(".3f", "%"),
        "scores outside the range of their codes; harmless if their probability is negligible",
    ),
    Column("verified_outputs", "Verified", number(",.0f"), "hardware outputs that equal those of the integer model"),
    Column(
        "area_um2",
        "Area, µm²",
        number(",.0f"),
        "cells of a unit with one lane and loadable constants, excluding the row memory",
    ),
    Column(
        "fmax_mhz",
        "Clock, MHz",
        number(",.0f"),
        "maximum clock of the netlist with this area and energy; below it, the fastest netlist that was tried",
        remark=_fastest,
        further=("fastest_mhz", "area_of_fastest_um2"),
    ),
    Column(
        "energy_pj_per_element",
        "Energy, pJ",
        number(",.1f"),
        "energy of the unit per score, at a clock common to all methods; below it, bounds without glitches and with "
        "all of them",
        remark=_glitches,
        further=("energy_without_glitches_pj_per_element", "energy_with_all_glitches_pj_per_element"),
    ),
    Column(
        "memory_area_um2",
        "Memory, µm²",
        number(",.0f"),
        "area of the row memory, made of published SRAM macros in the same process",
    ),
    Column(
        "memory_energy_pj_per_element",
        "Memory, pJ",
        number(",.1f"),
        "energy of the row memory per score, by its accesses in the simulation",
    ),
    Column("latency_cycles", "Latency", number(",.0f"), "cycles from a row's first score to its last result"),
    Column(
        "speedup_over_torch",
        "Speed-up",
        _times,
        "of our kernel over torch.softmax, on one thread of this CPU; the range is over rounds",
        remark=_range("speedup_over_torch_low", "speedup_over_torch_high", _times),
        further=("speedup_over_torch_low", "speedup_over_torch_high"),
    ),
    Column(
        "trained_steps",
        "Trained, steps",
        number(",.0f"),
        "optimiser steps of the model, and how the method was introduced",
        remark=lambda result: str(result.get("training_description") or ""),
        further=("training_description",),
    ),
)


def have_spread(variants: Sequence[Variant]) -> bool:
    """Return whether any figure of the table has a spread over seeds."""
    results = [result for variant in variants for result in variant.results.values()]
    return any(spread_of(result, column.key) is not None for result in results for column in COLUMNS)


def shown(variants: Sequence[Variant]) -> list[Column]:
    """Return the columns for which at least one result has a figure."""
    results = [result for variant in variants for result in variant.results.values()]
    return [column for column in COLUMNS if any(result.get(column.key) is not None for result in results)]


def cells(variant: Variant, columns: Sequence[Column]) -> list[Cell]:
    """Return a variant's row of the table."""
    row = []
    for column in columns:
        if column.both_modes:
            row += [_cell(column, variant.results.get(mode, {})) for mode in MODES]
        else:
            row.append(_cell(column, _preferred(variant, column.key)))
    return row


def _preferred(variant: Variant, key: str) -> Result:
    candidates = [variant.results[mode] for mode in reversed(MODES) if mode in variant.results]
    return next((result for result in candidates if result.get(key) is not None), candidates[0])


def _cell(column: Column, result: Result) -> Cell:
    return Cell(column.format(result.get(column.key)), column.remark(result))


def sheet(variants: Sequence[Variant], columns: Sequence[Column]) -> Sheet:
    """Return the table's figures with all digits, under their names in the record."""
    headings = ["method", "variant"]
    gathered: list[list[Any]] = [[variant.method.title, variant.name] for variant in variants]

    def add(key: str, mode: str | None, figure: Callable[[Variant], Any]) -> None:
        figures = [figure(variant) for variant in variants]
        if any(value is not None for value in figures):
            headings.append(f"{key}_{mode}" if mode else key)
            for row, value in zip(gathered, figures, strict=True):
                row.append(value)

    for column in columns:
        for mode in MODES if column.both_modes else (None,):
            for key in (column.key, *column.further):
                add(key, mode, partial(_of_sheet, column=column, key=key, mode=mode))
    add("seeds", None, lambda variant: " ".join(map(str, seeds_of(_preferred(variant, "seeds")))) or None)
    return Sheet(headings, gathered)


def _of_sheet(variant: Variant, column: Column, key: str, mode: str | None) -> Any:
    result = variant.results.get(mode, {}) if mode else _preferred(variant, column.key)
    return result.get(key)
