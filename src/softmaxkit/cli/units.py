"""Options that the hardware verbs share, and the spec and head that they select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.options import ALL, chosen_spec, given, model_name
from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.metadata import Storage

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.studies.hardware import TrainedHead

LANES, MAX_ROW = 1, 256
STORAGE: Storage = "flip-flops"
"""Default sizes of a unit; if `--cells` is an FPGA, the default storage is memory."""

LanesOption = Annotated[int, typer.Option(help="Scores per cycle.")]
MaxRowOption = Annotated[int, typer.Option(help="Length of the longest row in scores.")]
DepthOption = Annotated[
    int | None, typer.Option(help="Pipeline registers, excluding buffers.", show_default="the unit's own")
]
STORAGE_HELP = "Storage of rows and loadable tables; memory is SRAM or block RAM."
SetsOption = Annotated[
    int, typer.Option(min=1, help="Sets of loadable constants; each row selects one, and switching takes no time.")
]
StorageOption = Annotated[Storage, typer.Option(help=STORAGE_HELP)]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_PATH",
        callback=model_name,
        help="Take the method, constants and scores from a head of this calibrated model.",
    ),
]
HeadTextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text file that the --model is run on.",
        show_default="the Python standard library's source",
    ),
]
LayerOption = Annotated[int, typer.Option(help="Layer of the model, from 0.")]
HeadOption = Annotated[int, typer.Option(help="Head of the layer, from 0.")]


def number_or_all(text: str | int) -> int | None:
    """Parse a layer or head of `rtl`: a number, or None for "all".

    Raises:
        typer.BadParameter: the text is neither.
    """
    if text == ALL:
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number from 0, or {ALL}, got {text!r}") from None


LayersOption = Annotated[
    int | None, typer.Option(parser=number_or_all, metavar="N", help=f"Layer of the model, from 0, or {ALL}.")
]
HeadsOption = Annotated[
    int | None, typer.Option(parser=number_or_all, metavar="N", help=f"Head of the layer, from 0, or {ALL}.")
]


def constants_option(default: str) -> Any:
    """Return the --constants option, with a description of its default."""
    return typer.Option(help="Only units of this kind: constants baked in, or loadable.", show_default=default)


def chosen_units(
    method: str | None,
    spec_file: Path | None,
    model: str | None,
    layer: int | None,
    head: int | None,
    text: Path | None,
    context: int,
    rows: int | None = None,
) -> list[tuple[Spec, TrainedHead | None]]:
    """Return the selected spec without a head; or, of a model, the specs and heads. `layer` or `head` None means all.

    Raises:
        ValueError: the options are incomplete or contradictory, or the model has another method in it.
    """
    if model is None:
        return [(chosen_spec(method, spec_file), None)]
    from softmaxkit.studies.hardware import read_heads

    heads = read_heads(model, layer, head, text, context, rows)
    if method is not None or spec_file is not None:
        expected = chosen_spec(method, spec_file)
        for trained in heads:
            same = expected == trained.spec if spec_file is not None else expected.method == trained.spec.method
            if not same:
                raise ValueError(
                    f"layer {trained.layer} of {model} has {trained.spec.name} in it, not {expected.name}; "
                    "leave METHOD and --spec out"
                )
    return [(trained.spec, trained) for trained in heads]


def check_head_options(command: typer.Context, model: str | None) -> None:
    """Raise ValueError if there are options for a model's head, but no model."""
    if model is None:
        options = " and ".join(given(command, "layer", "head", "text", "context"))
        if options:
            raise ValueError(f"without --model there is no head for {options}; add --model, or leave {options} out")


def sizes(lanes: int, max_row: int, depth: int | None, storage: Storage | None, sets: int = 1) -> dict[str, Any]:
    """Return the sizes of a unit as arguments of `Spec.unit`; `sets` is included only if there are several."""
    several = {"sets": sets} if sets > 1 else {}
    return {"lanes": lanes, "max_row": max_row, "depth": depth, "storage": storage or STORAGE, **several}


def kind_of(constants: Kind | None, sets: int) -> Kind | None:
    """Return the requested kind of units; several sets of constants imply loadable ones.

    Raises:
        ValueError: baked-in constants with several sets.
    """
    if sets > 1 and constants == "baked":
        raise ValueError(f"--sets {sets} needs loadable constants; leave out --sets, or --constants baked")
    return "loadable" if sets > 1 else constants
