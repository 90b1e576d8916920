"""The GPU part of `softmaxkit bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, reported, stages
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import ratio


def bench_card(
    specs: Sequence[Spec], shapes: tuple[tuple[int, ...], ...], rounds: int, seed: int, json: Path | None
) -> None:
    """Measure the current GPU, print the tables and write the record."""
    from softmaxkit.studies.card_speed import CardOptions, measure_card
    from softmaxkit.studies.speed import distinct

    options = CardOptions(distinct(specs), shapes, rounds=rounds, seed=seed)
    with stages() as stage:
        record = measure_card(options, command_line(), stage)
    inputs = record["inputs"]
    ceilings = f"copies {inputs['copy_gb_per_s']:.0f} GB/s, multiplies {inputs['matmul_tflops']:.0f} TFLOP/s"
    with reported(record, json) as screen:
        for table in card_tables(record):
            screen.print(table)
        screen.print(f"{inputs['card']}: {ceilings}")


def card_tables(record: dict[str, Any]) -> list[Table]:
    """Return one table per shape, causality and pass (forward, backward, decoding)."""
    tables: dict[tuple[Any, ...], Table] = {}
    for result in record["results"]:
        causal, way = result.get("causal", False), result.get("pass", "")
        key = (*result["shape"], causal, way)
        if key not in tables:
            shared = [f"{result['shape'][4]} key heads"] if len(result["shape"]) > 4 else []
            about = (*shared, *(["causal"] if causal else []), way or result["kind"])
            title = ", ".join(("x".join(map(str, result["shape"][:4])), *about))
            tables[key] = Table("method", "mode", "back end", title=title, box=SIMPLE_HEAD)
            for column in ("ms", "to call", "over torch", "TFLOP/s", "GB/s", "of the card", "error"):
                tables[key].add_column(column, justify="right")
        row = [name_of(result, "storage"), result.get("mode", ""), result["backend"]]
        if "failure" in result:
            tables[key].add_row(*row, "does not run", "", "", "", "", "", result["failure"][:40])
            continue
        share = result.get("share_of_matmul", result.get("share_of_copy"))
        error, speedup = result.get("error_rms"), result.get("speedup_over_torch")
        tables[key].add_row(
            *row,
            f"{1e3 * result['seconds']:.3f}",
            f"{1e3 * result['call_seconds']:.2f}",
            "" if speedup is None else f"{ratio(speedup)}x",
            f"{result['tflops']:.0f}" if "tflops" in result else "",
            f"{result['gb_per_s']:.0f}" if "gb_per_s" in result else "",
            f"{share:.0%}",
            "" if error is None else f"{error:.1e}",
        )
    return list(tables.values())
