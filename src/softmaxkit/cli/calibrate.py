"""`softmaxkit calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    OverwriteOption,
    SpecOption,
    TextOption,
    chosen_spec,
    command_line,
    console,
    output_folder,
    write_record,
)
from softmaxkit.recipe import Recipe


def calibrate(
    model: Annotated[str, typer.Argument(help="A model's folder or hub name.", show_default=False)],
    method: Annotated[
        str | None, typer.Argument(help="Method to put in; left out, those that are in it.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the calibrated model.")
    ] = Path("softmaxkit-model"),
    spec: SpecOption = None,
    text: TextOption = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches of 16 windows to look at.")] = 25,
    context: ContextOption = Recipe().context,
    mean_bits: Annotated[
        float | None,
        typer.Option(
            min=2, max=4, help="Of EXAQ: choose the bits of each layer, so many on average.", show_default=False
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Set a method's score scale, clip and ranges on a model's own scores, and save the model with it."""
    from softmaxkit.methods.exaq import Exaq
    from softmaxkit.models.calibration import calibrate as calibrate_model
    from softmaxkit.models.checkpoint import save
    from softmaxkit.models.mixed_bits import mix_bits
    from softmaxkit.models.patch import apply, layers, set_mode
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus
    from softmaxkit.record import make_record, make_result

    output_folder(output, overwrite)
    loaded, tokenizer = read_pretrained(model, context)
    chosen = None if method is None and spec is None else chosen_spec(method, spec)
    if mean_bits is not None and not isinstance(chosen, Exaq):
        raise ValueError("--mean-bits is for exaq; give it as METHOD or in --spec")
    corpus = read_corpus(text, tokenizer)
    windows = corpus.calibration_batches(context, count=batches)
    if isinstance(chosen, Exaq) and mean_bits is not None:
        mix_bits(loaded, chosen, windows, mean_bits)
        set_mode(loaded, "integer")
    else:
        if chosen is not None:
            apply(loaded, chosen, mode="integer")
        calibrate_model(loaded, windows)
    save(loaded, output, tokenizer)
    results = []
    for name, module in layers(loaded).items():
        title = f"{name}: {module.spec.method} {module.spec.variant}".rstrip()
        console.print(f"{title}: {_shown(module.calibration | module.statistics) or 'has nothing to calibrate'}")
        results.append(
            make_result(
                module.spec,
                module.mode,
                layer=name,
                calibration=module.calibration,
                statistics=module.statistics,
                constants=module.constants.to_json(),
            )
        )
    console.print(f"model: {output}")
    inputs = {"text": corpus.describe(), "model": {"name": model}, "batches": len(windows)}
    write_record(make_record(command_line(), 0, inputs, results), json)


def _shown(calibration: dict[str, Any]) -> str:
    """Write the numbers of a calibration to four digits."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in calibration.items()}
    return ", ".join(f"{key} {' '.join(f'{each:.4g}' for each in values)}" for key, values in lists.items())
