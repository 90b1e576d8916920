"""`softmaxkit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    TextOption,
    WindowsOption,
    command_line,
    results_console,
    stages,
    write_record,
)
from softmaxkit.recipe import WINDOWS, Recipe


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder or hub name.", show_default=False)],
    text: TextOption = None,
    mode: Annotated[str, typer.Option(help="float, integer, or both.")] = "both",
    windows: WindowsOption = WINDOWS,
    context: ContextOption = Recipe().context,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure on this task of lm-eval instead, such as piqa; may be given again.", show_default=False
        ),
    ] = None,
    include: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of lm-eval tasks of one's own.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Examples of each task, at most.", show_default="all")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure a model with the methods that are in it: its loss on held-out text, or tasks of lm-eval.

    A plain model counts as exact.
    """
    from softmaxkit.methods.exact import Exact
    from softmaxkit.models.evaluation import figures, loss_on, perplexity, real_scores
    from softmaxkit.models.patch import apply, layers, set_mode
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus, windows_at_once
    from softmaxkit.record import make_record, make_result

    if mode not in ("float", "integer", "both"):
        raise ValueError(f"--mode is float, integer or both, not {mode!r}")
    loaded, tokenizer = read_pretrained(model, context)
    if not layers(loaded):
        apply(loaded, Exact())
    modes = ("float", "integer") if mode == "both" else (mode,)
    if task:
        if tokenizer is None:
            raise ValueError(f"{model} reads bytes; tasks of lm-eval need a model with a tokenizer")
        results = _on_tasks(loaded, tokenizer, task, modes, limit, include)
        table = Table("task", "mode", "metric", "value")
        for result in results:
            for name, value in result["metrics"].items():
                table.add_row(result["task"], result["mode"], name, f"{value:.4f}")
        results_console(json).print(table)
        write_record(make_record(command_line(), 0, {"model": {"name": model}, "limit": limit}, results), json)
        return
    corpus = read_corpus(text, tokenizer)
    held_out = corpus.held_out_windows(context, windows)
    specs = {name: module.spec for name, module in layers(loaded).items()}
    title = " and ".join(dict.fromkeys(f"{spec.method} {spec.variant}".strip() for spec in specs.values()))
    by_layer = {name: spec.to_json() for name, spec in specs.items()}
    results = []
    with stages() as stage:
        for each in modes:
            set_mode(loaded, each)
            loss = loss_on(loaded, held_out, stage(f"measure {title}, {each}"))
            result = make_result(
                next(iter(specs.values())),
                each,
                loss_nats=loss,
                perplexity=perplexity(loss),
                layers=by_layer,
                **figures(real_scores(loaded, held_out[: windows_at_once(32, context)])),
            )
            mixed = len(set(specs.values())) > 1
            results.append(result | ({"method": "mixed", "variant": title, "spec": None} if mixed else {}))
    table = Table("mode", "loss, nats", "perplexity", "row sum", title=title)
    for result in results:
        table.add_row(
            result["mode"],
            f"{result['loss_nats']:.4f}",
            f"{result['perplexity']:.3f}",
            f"{result['row_sum_mean']:.3f}",
        )
    results_console(json).print(table)
    inputs = {"text": corpus.describe(), "model": {"name": model}, "windows": len(held_out), "context": context}
    write_record(make_record(command_line(), 0, inputs, results), json)


def _on_tasks(
    model: Any, tokenizer: Any, tasks: list[str], modes: tuple[str, ...], limit: int | None, include: Path | None
) -> list[dict[str, Any]]:
    """Return a result for each task and mode."""
    from softmaxkit.models.harness import harness_figures
    from softmaxkit.models.patch import layers, set_mode
    from softmaxkit.record import make_result

    spec = next(iter(layers(model).values())).spec
    results = []
    with stages() as stage:
        for mode in modes:
            stage(f"measure {spec.method} {spec.variant}".rstrip() + f", {mode}")
            set_mode(model, mode)
            found = harness_figures(model, tokenizer, tasks, limit, include)
            results += [make_result(spec, mode, task=name, metrics=metrics) for name, metrics in found.items()]
    return results
