"""Options that the verbs for hardware share, and the spec and head that they choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.options import chosen_spec
from softmaxkit.methods.base.answers import Storage

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.studies.hardware import TrainedHead

LANES, MAX_ROW = 1, 256
STORAGE: Storage = "flip-flops"
"""The sizes of a unit where none are given; only in an FPGA do rows wait in its memory."""

LanesOption = Annotated[int, typer.Option(help="Scores a cycle.")]
MaxRowOption = Annotated[int, typer.Option(help="Scores of the longest row.")]
DepthOption = Annotated[
    int | None, typer.Option(help="Pipeline registers, not counting buffers.", show_default="the unit's own")
]
STORAGE_HELP = "Where rows and loadable tables are held."
StorageOption = Annotated[Storage, typer.Option(help=STORAGE_HELP)]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_PATH", help="A calibrated model, one of whose heads gives method, constants and scores."
    ),
]
LayerOption = Annotated[int, typer.Option(help="Layer of the model, from 0.")]
HeadOption = Annotated[int, typer.Option(help="Head of the layer, from 0.")]


def constants_option(default: str) -> Any:
    """Return the option for the kind of units, whose help says what comes where it is left out."""
    return typer.Option(help="Units of this kind alone: constants baked in, or loaded.", show_default=default)


def chosen_unit(
    method: str | None,
    spec_file: Path | None,
    model: str | None,
    layer: int,
    head: int,
    text: Path | None,
    context: int,
) -> tuple[Spec, TrainedHead | None]:
    """Return the spec, and the head of a model where one is given.

    Raises:
        ValueError: too little or too much is given, or the model has another method in it.
    """
    if model is None:
        return chosen_spec(method, spec_file), None
    from softmaxkit.studies.hardware import read_head

    trained = read_head(model, layer, head, text, context)
    if method is not None or spec_file is not None:
        wanted = chosen_spec(method, spec_file)
        same = wanted == trained.spec if spec_file is not None else wanted.method == trained.spec.method
        if not same:
            raise ValueError(
                f"layer {layer} of {model} has {trained.spec.name} in it; leave METHOD and --spec out, or give that"
            )
    return trained.spec, trained


def sizes(lanes: int, max_row: int, depth: int | None, storage: Storage | None) -> dict[str, Any]:
    """Return the sizes of a unit as `Spec.unit` takes them."""
    return {"lanes": lanes, "max_row": max_row, "depth": depth, "storage": storage or STORAGE}
