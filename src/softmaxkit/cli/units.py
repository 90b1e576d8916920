"""Options that the verbs for hardware share, and the choice of a spec and its constants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.console import chosen_spec

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.studies.hardware import Trained

LanesOption = Annotated[int, typer.Option(help="Scores a cycle.")]
MaxRowOption = Annotated[int, typer.Option(help="Scores of the longest row.")]
DepthOption = Annotated[
    int | None, typer.Option(help="Pipeline registers, buffers not counted.", show_default="the unit's own")
]
StorageOption = Annotated[
    str, typer.Option(help="Where rows and loadable tables are held: flip-flops, latches or memory.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_PATH", help="A calibrated model: method, constants and scores are those of one of its heads."
    ),
]
LayerOption = Annotated[int, typer.Option(help="Layer of the model, from 0.")]
HeadOption = Annotated[int, typer.Option(help="Head of the layer, from 0.")]


def chosen_unit(
    method: str | None,
    spec_file: Path | None,
    model: str | None,
    layer: int,
    head: int,
    text: Path | None,
    context: int,
) -> tuple[Spec, Trained | None]:
    """Return the spec, and the head of a model where one is given.

    Raises:
        ValueError: too little or too much is given, or the model has another method in it.
    """
    if model is None:
        return chosen_spec(method, spec_file), None
    from softmaxkit.studies.hardware import head_of

    trained = head_of(model, layer, head, text, context)
    if method is not None or spec_file is not None:
        wanted = chosen_spec(method, spec_file)
        same = wanted == trained.spec if spec_file is not None else wanted.method == trained.spec.method
        if not same:
            there = f"{trained.spec.method} {trained.spec.variant}".strip()
            raise ValueError(f"layer {layer} of {model} has {there} in it; leave METHOD and --spec out, or give that")
    return trained.spec, trained


def sizes(lanes: int, max_row: int, depth: int | None, storage: str) -> dict[str, Any]:
    """Return the sizes of a unit as `Spec.unit` takes them."""
    return {"lanes": lanes, "max_row": max_row, "depth": depth, "storage": storage}
