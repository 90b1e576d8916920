"""`softmaxkit compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, note, reported, stages, stoppable
from softmaxkit.cli.options import (
    ContextOption,
    GgufOption,
    JsonOption,
    MethodsOption,
    SeedOption,
    SpecsOption,
    TextOption,
    WindowsOption,
    chosen_recipe,
    chosen_specs,
    model_name,
    output_file,
    output_folder,
    with_gguf,
)
from softmaxkit.methods import BASELINE
from softmaxkit.recipe import SMALL_GPT, WINDOWS, Recipe
from softmaxkit.record import ratio

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.studies.options import Options


def compare(
    text: TextOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            callback=model_name,
            help="A pretrained causal language model: a folder, hub name or GGUF file; or smollm2, if installed.",
            show_default="train a small byte-level GPT",
        ),
    ] = None,
    gguf: GgufOption = None,
    method: MethodsOption = None,
    spec: SpecsOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Training steps of each model or method that is trained.",
            show_default=f"{Recipe().steps}; 0 with --model",
        ),
    ] = None,
    windows: WindowsOption = WINDOWS,
    context: ContextOption = Recipe().context,
    seed: SeedOption = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds to train and measure with, from --seed up; figures are means.")
    ] = 1,
    output: Annotated[
        Path,
        output_folder("Folder for models and results."),
    ] = Path("softmaxkit-compare"),
    json: JsonOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            callback=output_file,
            help="Write the HTML page to this file.",
            show_default="compare.html in the folder of --output",
        ),
    ] = None,
    records: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of the records by which the page judges the papers' claims; without any, it omits them.",
        ),
    ] = Path("results"),
    hardware: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Simulate each spec's hardware against the exact integers."),
    ] = True,
    synthesize: Annotated[
        bool,
        typer.Option("--synth/--no-synth", help="Map each spec's hardware to standard cells (sky130) for its costs."),
    ] = True,
    speed: Annotated[
        bool,
        typer.Option("--speed/--no-speed", help="Time each spec's kernel next to torch's; not on a busy machine."),
    ] = True,
) -> None:
    """Compare all methods in one language model: loss in float and in exact integers, speed, and hardware cost.

    By default a small GPT is trained on the Python standard library's source. Each method is trained from scratch,
    fine-tuned or calibrated, as it requires, all with the same budget. Results are a record (compare.json) and a page
    (compare.html). After Ctrl-C, the same command continues where it stopped.
    """
    from softmaxkit.flow.tools import missing_hardware
    from softmaxkit.models.text import read_bytes
    from softmaxkit.report import render
    from softmaxkit.report.advice import lost_to_formats
    from softmaxkit.report.record import read_variants
    from softmaxkit.studies.compare import compare as compare_methods
    from softmaxkit.studies.options import Options
    from softmaxkit.studies.preparation import needs_training
    from softmaxkit.studies.resume import alone_in

    model = with_gguf(model, gguf)
    specs = chosen_specs(method, spec)
    if steps is None:
        steps = Recipe().steps if model is None else 0
    if steps == 0 and model is None:
        raise ValueError("--steps 0 trains nothing; give 1 or more, or a pretrained model with --model")
    recipe = chosen_recipe(steps, context, model is not None)
    if steps == 0 and (untrained := [chosen for chosen in specs if needs_training(chosen)]):
        if method or spec:
            raise ValueError(f"{untrained[0].method} has to be trained; give --steps to fine-tune the model with it")
        specs = [chosen for chosen in specs if chosen not in untrained]
        note(f"{untrained[0].method} is left out: it has to be trained, and --steps is 0")
    if text is not None:
        read_bytes(text)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder to --output")
    missing = missing_hardware() if hardware or synthesize else ""
    if missing:
        note(f"the hardware is left out: {missing}")
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
        speed=speed,
    )
    page = html or output / "compare.html"
    ledger = _claims(specs, records)
    note(_plan(options, page))
    with alone_in(output), stages() as stage, stoppable():
        record = compare_methods(options, command_line(), stage, seeds)
    with reported(record, json or output / "compare.json", (page, lambda record: render(record, ledger))) as screen:
        screen.print(_table(record))
        for sentence in lost_to_formats(read_variants(record)):
            screen.print(sentence, soft_wrap=True)
    if failed := [result for result in record["results"] if result.get("hardware_faults")]:
        names = ", ".join(map(name_of, failed))
        raise RuntimeError(f"the hardware differs from the exact integers: {names}; run 'softmaxkit verify'")


def _claims(specs: Sequence[Spec], folder: Path) -> dict[str, Any] | None:
    """Return the ledger of claims about the compared methods; None if no record in the folder bears on any."""
    from softmaxkit.studies.claims import judge_claims

    ledger = judge_claims(dict.fromkeys(spec.method for spec in (BASELINE, *specs)), folder, command_line())
    return ledger if any(result["measured"] for result in ledger["results"]) else None


def _plan(options: Options, page: Path) -> str:
    """Return a sentence that describes the work ahead."""
    names = ", ".join(dict.fromkeys(spec.method for spec in options.specs))
    model = options.model or f"a {SMALL_GPT}"
    work = f"Train {model} for {options.recipe.steps} steps" if options.recipe.steps else f"Use {model}"
    count = f"{len(options.specs)} spec{'s' if len(options.specs) > 1 else ''}"
    source = options.text or "the Python standard library's source"
    return (
        f"{work} on {source}, put in {names} ({count}), measure each in float and in the hardware's exact integers "
        f"on up to {options.windows} held-out windows, and write {page}."
    )


def _table(record: dict[str, Any]) -> Table:
    """Return a table with a row per spec, float and integer figures next to each other."""
    floats, integers = (
        {(result["method"], result["variant"]): result for result in record["results"] if result["mode"] == mode}
        for mode in ("float", "integer")
    )
    table = Table(title="Held-out loss in nats per token, and its change from exact softmax in float", box=SIMPLE_HEAD)
    table.add_column("method", max_width=40)
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
        "speedup\nover torch",
    ):
        table.add_column(heading, justify="right")
    table.add_column("training")
    for key, in_float in floats.items():
        integer = integers[key]
        table.add_row(
            name_of(in_float),
            f"{in_float['loss_nats']:.4f}",
            f"{integer['loss_nats']:.4f}",
            _change(in_float),
            _change(integer),
            f"{integer['row_sum_mean']:.3f}",
            f"{integer['saturated_scores_percent']:.2f}%",
            _verified(integer),
            _figure(integer, "area_um2", "{:,.0f}".format),
            _figure(integer, "energy_pj_per_element", "{:.1f}".format),
            _figure(in_float if "speedup_over_torch" in in_float else integer, "speedup_over_torch", ratio),
            integer["training_description"],
        )
    return table


def _verified(result: dict[str, Any]) -> str:
    """Return the number of hardware outputs that equal the integers, or "differs" if any does not."""
    if result.get("hardware_faults"):
        return "differs"
    return f"{result['verified_outputs']:,}" if "verified_outputs" in result else "–"


def _figure(result: dict[str, Any], key: str, write: Callable[[float], str]) -> str:
    return write(result[key]) if key in result else "–"


def _change(result: dict[str, Any]) -> str:
    percent = round(result["loss_change_percent"], 2)
    spread = result.get("loss_change_percent_spread")
    return (f"{percent:+.2f}%" if percent else "0.00%") + ("" if spread is None else f" ± {spread:.2f}")
