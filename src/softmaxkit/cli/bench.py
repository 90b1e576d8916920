"""`softmaxkit bench`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.card import bench_card
from softmaxkit.cli.console import command_line, name_of, reported, stages
from softmaxkit.cli.options import (
    GgufOption,
    JsonOption,
    MethodsOption,
    SeedOption,
    SpecsOption,
    TextOption,
    chosen_specs,
    given,
    model_name,
    refuse,
    with_gguf,
)
from softmaxkit.record import ratio
from softmaxkit.studies.dtypes import DTYPES, Dtype, torch_dtypes


class Device(StrEnum):
    """The device to measure."""

    CPU = "cpu"
    CUDA = "cuda"


CARD_SHAPES = (
    *("524288x128", "65536x1024", "32768x4096", "4096x65536"),
    *("16x16384x16384x128", "32x4096x4096x64", "32x1x65536x128", "32/8x1x65536x128"),
)
SHAPES = (
    *("4096x128", "4096x1024", "1024x4096", "256x32768", "64x131072"),
    *("12x1024x1024x64", "12x1x32768x64", "32/8x1x32768x128"),
)


def bench(
    context: typer.Context,
    method: MethodsOption = None,
    spec: SpecsOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            callback=model_name,
            help="Measure a whole language model: a folder, hub name or GGUF file; or smollm2, if installed.",
            show_default=False,
        ),
    ] = None,
    gguf: GgufOption = None,
    prompt: Annotated[int, typer.Option(min=2, help="With --model: length of the prompt in tokens.")] = 1024,
    generate: Annotated[int, typer.Option(min=1, help="With --model: tokens to generate after the prompt.")] = 32,
    text: TextOption = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of a softmax, ROWSxKEYS, or of an attention, HEADSxQUERIESxKEYSxCHANNELS; for grouped-query "
            "attention write HEADS/KEY_HEADS. Repeatable.",
            show_default=f"{', '.join(SHAPES)}; on CUDA {', '.join(CARD_SHAPES)}",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of threads. Repeatable.", show_default="1, and all cores"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each runs every contender once.")] = 9,
    device: Annotated[Device, typer.Option(help="Measure on the CPU, or on the current CUDA GPU.")] = Device.CPU,
    dtype: Annotated[
        list[Dtype] | None,
        typer.Option(help="Dtype of the inputs. Repeatable.", show_default=", and ".join(DTYPES)),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Also measure torch with torch.compile; with --model, the methods too."),
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure the speed of the methods on this machine, compared with torch and with a plain memory copy.

    All contenders take turns in one process, on the same scores. Speedups are over torch.softmax in the same dtype, or
    over scaled_dot_product_attention in float32 and in bfloat16, whatever the dtype of the methods' inputs, and in
    float16 if they have that. Columns: "copies" is the time in units of a memory copy; "new memory" is for calls that
    return a new tensor, as most do; "error" is the error against the method's own definition in float64; "from exact"
    is the distance of the output to exact attention, including the method's own deviation.

    With --model: reading a prompt and generating tokens after it, in mode "fused", compared with the original model in
    float32 and bfloat16. With --compile, all of these under torch.compile too, over a static cache; compiling takes
    some minutes for each.

    With --device cuda: softmax rows, attention forward and backward, and decoding, in bfloat16, by our kernels,
    FlexAttention and each back end of scaled_dot_product_attention, as percentages of the GPU's measured copy and
    matrix-multiplication rates. Decoding also runs over caches of 8 and 4 bits, in one piece and in pages of 16 tokens
    in random order. "Over torch" is the speedup over the fastest of torch's implementations. To try it without a GPU,
    set TRITON_INTERPRET=1; times are then meaningless.
    """
    if model is not None or gguf is not None:
        refuse(given(context, "shape", "dtype", "seed", "device"), "--model has its own shapes, on the CPU")
        _bench_model(with_gguf(model, gguf), method, spec, prompt, generate, text, threads, rounds, compiled, json)
        return
    refuse(given(context, "prompt", "generate", "text"), "only for use with --model")
    shapes = tuple(_shape(text) for text in shape or (SHAPES if device is Device.CPU else CARD_SHAPES))
    specs = chosen_specs(method, spec)
    if device is Device.CUDA:
        refuse(
            given(context, "threads", "dtype", "compiled"),
            "on a GPU there are no threads, inputs are bfloat16, and torch's softmax is compiled",
        )
        if any(len(shape) > 4 and shape[1] > 1 for shape in shapes):
            raise ValueError(
                "on a GPU, grouped-query attention is measured for one query only, as HEADS/KEY_HEADSx1xKEYSxCHANNELS; "
                "for more queries use HEADSxQUERIESxKEYSxCHANNELS"
            )
        bench_card(specs, shapes, rounds, seed, json)
        return
    from softmaxkit.studies.speed import SpeedOptions, distinct, measure_speed

    dtypes = tuple(dict.fromkeys(dtype or DTYPES))
    options = SpeedOptions(distinct(specs), shapes, _counts(threads), rounds, compiled, seed, dtypes)
    with stages() as stage:
        record = measure_speed(options, command_line(), stage)
    machine = record["inputs"]["processor"]
    kernels = f"kernels: {record['inputs']['kernels']}, on {machine['name']} ({', '.join(machine['instructions'])})"
    with reported(record, json) as screen:
        for table in _tables(record):
            screen.print(table)
        screen.print(kernels)


def _bench_model(
    model: str | None,
    method: list[str] | None,
    spec: list[Path] | None,
    prompt: int,
    generate: int,
    text: Path | None,
    threads: list[int] | None,
    rounds: int,
    compiled: bool,
    json: Path | None,
) -> None:
    """Measure a whole model, print the table and write the record."""
    from softmaxkit.studies.contenders import has_fused_attention
    from softmaxkit.studies.model_speed import ModelSpeedOptions, measure_model_speed
    from softmaxkit.studies.speed import distinct

    assert model is not None
    specs = distinct(chosen_specs(method, spec))
    if not (method or spec):
        specs = tuple(filter(has_fused_attention, specs))
    options = ModelSpeedOptions(model, specs, prompt, generate, text, _counts(threads), rounds, compiled)
    with stages() as stage:
        record = measure_model_speed(options, command_line(), stage)
    with reported(record, json) as screen:
        screen.print(_model_table(record))


def _counts(threads: list[int] | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(threads or (1, os.cpu_count() or 1)))


def _model_table(record: dict[str, Any]) -> Table:
    inputs = record["inputs"]
    title = f"{inputs['model']['name']}: {inputs['prompt_tokens']} tokens read, {inputs['generated_tokens']} generated"
    table = Table(
        "method",
        "threads",
        title=title,
        caption=f"kernels: {inputs['kernels']}; loss of {inputs['loss_windows']} windows",
        box=SIMPLE_HEAD,
    )
    for part in ("read", "generated"):
        for column in (f"{part}/s", "over float32", "over bfloat16"):
            table.add_column(column, justify="right")
    for column in ("loss", "over float", "fused layers"):
        table.add_column(column, justify="right")
    for result in record["results"]:
        change = result.get("loss_change_from_float_percent")
        table.add_row(
            name_of(result, "dtype", "storage"),
            str(result["threads"]),
            *(
                cell
                for part in ("prompt", "generated")
                for cell in (
                    f"{result[f'{part}_tokens_per_second']:.1f}",
                    f"{ratio(result[f'{part}_speedup_over_float32'])}x",
                    f"{ratio(result[f'{part}_speedup_over_bfloat16'])}x",
                )
            ),
            f"{result['loss_nats']:.4f}" if "loss_nats" in result else "",
            "" if change is None else f"{change:+.2f}%",
            str(result.get("fused_layers", "")),
        )
    return table


def _shape(text: str) -> tuple[int, ...]:
    heads, slash, key_heads = text.lower().partition("x")[0].partition("/")
    parts = [heads, *text.lower().split("x")[1:], *([key_heads] if slash else [])]
    wrong = len(parts) not in ((5,) if slash else (2, 4))
    if wrong or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"a shape is ROWSxKEYS or HEADSxQUERIESxKEYSxCHANNELS, e.g. 1024x4096, not {text!r}")
    if slash and int(heads) % int(key_heads):
        raise ValueError(f"in {text!r} the number of heads must be a multiple of the number of key heads")
    return tuple(map(int, parts))


def _tables(record: dict[str, Any]) -> list[Table]:
    """Return one table per shape, dtype and number of threads."""
    tables: dict[tuple[Any, ...], Table] = {}
    for result in record["results"]:
        shape, threads, dtype = result["shape"], result["threads"], result["dtype"]
        key = (*shape, threads, dtype)
        if key not in tables:
            tables[key] = _empty_table(shape, threads, dtype)
        error = result.get("error_max", result.get("error_rms"))
        tables[key].add_row(
            name_of(result, "storage"),
            result.get("mode", ""),
            f"{1e3 * result['seconds']:.3f}",
            f"{ratio(result['speedup_over_torch'])}x",
            f"{result['time_over_copy']:.2f}",
            *(f"{ratio(result[f'speedup_over_torch_{rival}'])}x" for rival in _rivals(shape, dtype)),
            "" if error is None else f"{error:.1e}",
            *([] if len(shape) == 2 else [_percent(result.get("difference_from_exact_rms"))]),
        )
    return list(tables.values())


def _rivals(shape: list[int], dtype: str) -> dict[str, str]:
    """Return the suffixes of the record's other speedups over torch, with the titles of their columns."""
    if len(shape) == 2:
        return {"new_memory": "new memory: over torch"}
    return {rival: f"over {rival}" for rival in torch_dtypes(dtype)[1:]}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g}%"


def _empty_table(shape: list[int], threads: int, dtype: str) -> Table:
    softmax = len(shape) == 2
    axes = "rows x keys" if softmax else "heads x queries x keys x channels"
    shared = f", {shape[4]} key heads" if len(shape) > 4 else ""
    inputs = dtype if softmax else f"methods in {dtype}"
    title = f"{'x'.join(map(str, shape[:4]))} ({axes}{shared}), {inputs}, {threads} thread{'s' if threads > 1 else ''}"
    table = Table("method", "mode", title=title, box=SIMPLE_HEAD)
    columns = ["ms", "over torch", "copies", *_rivals(shape, dtype).values(), "error"]
    for column in [*columns, *([] if softmax else ["from exact"])]:
        table.add_column(column, justify="right")
    return table
