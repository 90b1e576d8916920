"""`softmaxkit bench`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, results_console, stages, write_record
from softmaxkit.cli.options import JsonOption, MethodsOption, SeedOption, SpecsOption, chosen_specs
from softmaxkit.methods.base.spec import Spec


class Device(StrEnum):
    """What is measured."""

    CPU = "cpu"
    CUDA = "cuda"


CARD_SHAPES = (
    *("65536x128", "16384x1024", "8192x4096", "1024x65536"),
    *("16x16384x16384x128", "32x4096x4096x64", "32x1x65536x128"),
)
SHAPES = ("4096x128", "4096x1024", "1024x4096", "256x32768", "64x131072", "12x1024x1024x64", "12x1x32768x64")


def bench(
    method: MethodsOption = None,
    spec: SpecsOption = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="ROWSxKEYS of a softmax, or HEADSxQUERIESxKEYSxCHANNELS of an attention; may be given again.",
            show_default=f"{', '.join(SHAPES)}; on CUDA {', '.join(CARD_SHAPES)}",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of threads; may be given again.", show_default="1, and all cores"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything runs, in turn.")] = 9,
    device: Annotated[
        Device, typer.Option(help="The CPU, or the GPU at hand: with each of torch's own back ends beside ours.")
    ] = Device.CPU,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure torch.softmax by torch.compile, too.")] = False,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure the speed of the methods on this machine, beside torch and a plain copy.

    Everything runs in turn in one process, on the same scores. Speedups are over torch.softmax, or over
    scaled_dot_product_attention; "new memory" is for calls that return a new tensor, as most do. "error" is against the
    method itself in float64, "from exact" the output's distance to exact attention, which the method itself has too.

    On a GPU: rows, attention forward and backward, and decoding, of bfloat16, by our kernels, FlexAttention and each
    back end of scaled_dot_product_attention, as shares of what the card copies and multiplies. With TRITON_INTERPRET=1
    in the environment all of it runs on the CPU, to be tried; times mean nothing then.
    """
    shapes = tuple(_shape(text) for text in shape or (SHAPES if device is Device.CPU else CARD_SHAPES))
    specs = chosen_specs(method, spec)
    if device is Device.CUDA:
        if threads or compiled:
            raise ValueError("--threads and --compile are of the CPU; on CUDA torch compiles its softmax anyway")
        _bench_card(specs, shapes, rounds, seed, json)
        return
    from softmaxkit.studies.speed import SpeedOptions, distinct, measure_speed

    counts = tuple(dict.fromkeys(threads or (1, os.cpu_count() or 1)))
    options = SpeedOptions(distinct(specs), shapes, counts, rounds, compiled, seed)
    with stages() as stage:
        record = measure_speed(options, command_line(), stage)
    screen = results_console(json)
    for table in _tables(record):
        screen.print(table)
    screen.print(f"kernels: {record['inputs']['kernels']}")
    write_record(record, json)


def _bench_card(
    specs: Sequence[Spec], shapes: tuple[tuple[int, ...], ...], rounds: int, seed: int, json: Path | None
) -> None:
    from softmaxkit.studies.card_speed import CardOptions, measure_card
    from softmaxkit.studies.speed import distinct

    options = CardOptions(distinct(specs), shapes, rounds=rounds, seed=seed)
    with stages() as stage:
        record = measure_card(options, command_line(), stage)
    screen = results_console(json)
    for table in card_tables(record):
        screen.print(table)
    inputs = record["inputs"]
    screen.print(
        f"{inputs['card']}: copies {inputs['copy_gb_per_s']:.0f} GB/s, multiplies {inputs['matmul_tflops']:.0f} TFLOP/s"
    )
    write_record(record, json)


def card_tables(record: dict[str, Any]) -> list[Table]:
    """Return a table for each shape, causal or not, and pass."""
    tables: dict[tuple[Any, ...], Table] = {}
    for result in record["results"]:
        causal, way = result.get("causal", False), result.get("pass", "")
        key = (*result["shape"], causal, way)
        if key not in tables:
            title = ", ".join(("x".join(map(str, result["shape"])), *(["causal"] if causal else []), way or "softmax"))
            tables[key] = Table("method", "mode", "back end", title=title.removesuffix(", "), box=SIMPLE_HEAD)
            for column in ("ms", "TFLOP/s", "GB/s", "of the card", "error"):
                tables[key].add_column(column, justify="right")
        name = " ".join(part for part in (result["method"], result.get("variant"), result.get("storage")) if part)
        row = [name, result.get("mode", ""), result["backend"]]
        if "failure" in result:
            tables[key].add_row(*row, "does not run", "", "", "", result["failure"][:40])
            continue
        share = result.get("share_of_matmul", result.get("share_of_copy"))
        error = result.get("error_rms")
        tables[key].add_row(
            *row,
            f"{1e3 * result['seconds']:.3f}",
            f"{result['tflops']:.0f}" if "tflops" in result else "",
            f"{result['gb_per_s']:.0f}" if "gb_per_s" in result else "",
            f"{share:.0%}",
            "" if error is None else f"{error:.1e}",
        )
    return list(tables.values())


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) not in (2, 4) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"a shape is ROWSxKEYS or HEADSxQUERIESxKEYSxCHANNELS, such as 1024x4096, not {text!r}")
    return tuple(map(int, parts))


def _tables(record: dict[str, Any]) -> list[Table]:
    """Return a table for each shape and number of threads."""
    tables: dict[tuple[Any, ...], Table] = {}
    for result in record["results"]:
        shape, threads = result["shape"], result["threads"]
        key = (*shape, threads)
        if key not in tables:
            tables[key] = _empty_table(shape, threads)
        name = " ".join(part for part in (result["method"], result.get("variant"), result.get("storage")) if part)
        error = result.get("error_max", result.get("error_rms"))
        tables[key].add_row(
            name,
            result.get("mode", ""),
            f"{1e3 * result['seconds']:.3f}",
            f"{result['speedup_over_torch']:.2f}x",
            f"{result['time_over_copy']:.2f}",
            *([f"{result['speedup_over_torch_new_memory']:.2f}x"] if len(shape) == 2 else []),
            "" if error is None else f"{error:.1e}",
            *([_percent(result.get("difference_from_exact_rms"))] if len(shape) == 4 else []),
        )
    return list(tables.values())


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g}%"


def _empty_table(shape: list[int], threads: int) -> Table:
    softmax = len(shape) == 2
    axes = "rows x keys" if softmax else "heads x queries x keys x channels"
    title = f"{'x'.join(map(str, shape))} ({axes}), {threads} thread{'s' if threads > 1 else ''}"
    table = Table("method", "mode", title=title, box=SIMPLE_HEAD)
    columns = ["ms", "over torch", "copies", *(["new memory: over torch"] if softmax else []), "error"]
    for column in [*columns, *([] if softmax else ["from exact"])]:
        table.add_column(column, justify="right")
    return table
