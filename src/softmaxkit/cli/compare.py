"""`softmaxkit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    MethodsOption,
    SeedOption,
    SpecsOption,
    TextOption,
    WindowsOption,
    chosen_specs,
    command_line,
    console,
    results_console,
    stages,
    stoppable,
    write_record,
)
from softmaxkit.recipe import FINE_TUNING_RATE, SMALL_GPT, WINDOWS, Recipe


def compare(
    text: TextOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A pretrained causal language model.",
            show_default="train a small byte-level GPT",
        ),
    ] = None,
    method: MethodsOption = None,
    spec: SpecsOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Training steps for all that train.", show_default=f"{Recipe().steps}; 0 with --model"
        ),
    ] = None,
    windows: WindowsOption = WINDOWS,
    context: ContextOption = Recipe().context,
    seed: SeedOption = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for models and results.")
    ] = Path("softmaxkit-compare"),
    json: JsonOption = None,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the page there.", show_default="compare.html in DIR")
    ] = None,
    hardware: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the hardware of every form with its integers.")
    ] = True,
    synthesize: Annotated[
        bool, typer.Option("--synth/--no-synth", help="Map the hardware of every form to standard cells (sky130).")
    ] = True,
) -> None:
    """Put every method into one language model and show what each does to it, in float, exact integers and hardware.

    By default trains a small GPT on the Python standard library's source: exact and ConSmax from scratch, Softermax
    fine-tuned, EXAQ calibrated, all with the same budget. Writes a record (compare.json) and a page (compare.html).
    Ctrl-C, then the same command, goes on where it stopped.
    """
    from softmaxkit.files import write_text
    from softmaxkit.flow.tools import missing_hardware
    from softmaxkit.methods.exact import Exact
    from softmaxkit.models.text import read_bytes
    from softmaxkit.report import render
    from softmaxkit.studies.compare import Options
    from softmaxkit.studies.compare import compare as run

    specs = chosen_specs(method, spec)
    if steps is None:
        steps = Recipe().steps if model is None else 0
    if steps == 0 and model is None:
        raise ValueError("--steps 0 trains nothing; give 1 or more, or a pretrained --model")
    rate = Recipe().learning_rate if model is None else FINE_TUNING_RATE
    recipe = Recipe(steps=steps, context=context, learning_rate=rate)
    if steps == 0 and (untrained := [each for each in specs if each.training == "from scratch" and each != Exact()]):
        if method or spec:
            raise ValueError(f"{untrained[0].method} has to be trained; give --steps, for fine-tuning the model to it")
        specs = [each for each in specs if each not in untrained]
        console.print(f"{untrained[0].method} is left out: it has to be trained, and --steps is 0")
    if text is not None:
        read_bytes(text)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder to --output")
    missing = missing_hardware() if hardware or synthesize else ""
    if missing:
        console.print(f"the hardware is left out: {missing}")
    options = Options(
        specs,
        text=text,
        model=model,
        recipe=recipe,
        seed=seed,
        windows=windows,
        folder=output,
        verify=hardware and not missing,
        synthesize=synthesize and not missing,
    )
    console.print(_plan(options, html or output / "compare.html"), soft_wrap=True)
    with stages() as stage, stoppable():
        record = run(options, command_line(), stage)
    results_console(json).print(_table(record))
    write_record(record, json or output / "compare.json")
    page = html or output / "compare.html"
    write_text(page, render(record))
    console.print(f"page:   {page}")
    wrong = [result for result in record["results"] if result.get("hardware_faults")]
    if wrong:
        names = ", ".join(f"{result['method']} {result['variant']}".strip() for result in wrong)
        raise RuntimeError(f"the hardware differs from the integers it stands for: {names}; run 'softmaxkit verify'")


def _plan(options: Any, page: Path) -> str:
    names = ", ".join(dict.fromkeys(spec.method for spec in options.specs))
    what = options.model or f"a {SMALL_GPT}"
    work = f"Train {what} for {options.recipe.steps} steps" if options.recipe.steps else f"Take {what}"
    forms = f"{len(options.specs)} form{'s' if len(options.specs) > 1 else ''}"
    source = options.text or "the Python standard library's source"
    return (
        f"{work} on {source}, put in {names} ({forms}), measure each in float and in "
        f"the exact integers of the hardware on up to {options.windows} held-out windows, and write {page}."
    )


def _table(record: dict[str, Any]) -> Table:
    """One row a form of a method, float and integer beside each other."""
    by_mode = [
        {(r["method"], r["variant"]): r for r in record["results"] if r["mode"] == mode}
        for mode in ("float", "integer")
    ]
    table = Table(title="Held-out loss in nats, and its change against exact softmax in float", box=SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for heading in (
        "loss\nfloat",
        "\ninteger",
        "change\nfloat",
        "\ninteger",
        "row sum\ninteger",
        "scores\nsaturated",
        "hardware\nverified",
        "area\num2",
        "energy\npJ",
        "speed over\ntorch",
    ):
        table.add_column(heading, justify="right")
    table.add_column("training")
    for key, float_result in by_mode[0].items():
        integer = by_mode[1][key]
        table.add_row(
            " ".join(key).strip(),
            f"{float_result['loss_nats']:.4f}",
            f"{integer['loss_nats']:.4f}",
            _change(float_result),
            _change(integer),
            f"{integer['row_sum_mean']:.3f}",
            f"{integer['saturated_scores_percent']:.2f}%",
            _verified(integer),
            _figure(integer, "area_um2", ",.0f"),
            _figure(integer, "energy_pj_per_element", ".1f"),
            _figure(float_result if "speedup_over_torch" in float_result else integer, "speedup_over_torch", ".2f"),
            integer["training_description"],
        )
    return table


def _verified(result: dict[str, Any]) -> str:
    """Say how many outputs of the hardware equal the integers, or that some do not."""
    if result.get("hardware_faults"):
        return "differs"
    return f"{result['verified_outputs']:,}" if "verified_outputs" in result else "–"


def _figure(result: dict[str, Any], key: str, specification: str) -> str:
    return format(result[key], specification) if key in result else "–"


def _change(result: dict[str, Any]) -> str:
    percent = round(result["loss_change_percent"], 2)
    return f"{percent:+.2f}%" if percent else "0.00%"
