"""Options that the verbs for hardware share, and the spec and head that they choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softmaxkit.cli.options import ALL, chosen_spec, given
from softmaxkit.methods.base.answers import Storage
from softmaxkit.methods.base.forms import Kind

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.studies.hardware import TrainedHead

LANES, MAX_ROW = 1, 256
STORAGE: Storage = "flip-flops"
"""The sizes of a unit where none are given; with `--cells` of an FPGA, storage is memory."""

LanesOption = Annotated[int, typer.Option(help="Scores a cycle.")]
MaxRowOption = Annotated[int, typer.Option(help="Scores of the longest row.")]
DepthOption = Annotated[
    int | None, typer.Option(help="Pipeline registers, not counting buffers.", show_default="the unit's own")
]
STORAGE_HELP = "Where rows and loadable tables are held."
SetsOption = Annotated[
    int, typer.Option(min=1, help="Sets of loadable constants; rows say theirs, and none waits for another's.")
]
StorageOption = Annotated[Storage, typer.Option(help=STORAGE_HELP)]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_PATH", help="A calibrated model, one of whose heads gives method, constants and scores."
    ),
]
HeadTextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text that the --model runs on.",
        show_default="the Python standard library's source",
    ),
]
LayerOption = Annotated[int, typer.Option(help="Layer of the model, from 0.")]
HeadOption = Annotated[int, typer.Option(help="Head of the layer, from 0.")]


def number_or_all(text: str | int) -> int | None:
    """Return a number, or None for "all", as the options of `rtl` take it.

    Raises:
        typer.BadParameter: it is neither.
    """
    if text == ALL:
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"a number from 0, or {ALL}, not {text!r}") from None


LayersOption = Annotated[
    int | None, typer.Option(parser=number_or_all, metavar="N", help=f"Layer of the model, from 0, or {ALL}.")
]
HeadsOption = Annotated[
    int | None, typer.Option(parser=number_or_all, metavar="N", help=f"Head of the layer, from 0, or {ALL}.")
]


def constants_option(default: str) -> Any:
    """Return the option for the kind of units, whose help says what comes where it is left out."""
    return typer.Option(help="Units of this kind alone: constants baked in, or loaded.", show_default=default)


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
    """Return the spec, or that of each head of a model, with the head; `layer` and `head` are None for all.

    Raises:
        ValueError: too little or too much is given, or the model has another method in it.
    """
    if model is None:
        return [(chosen_spec(method, spec_file), None)]
    from softmaxkit.studies.hardware import read_heads

    heads = read_heads(model, layer, head, text, context, rows)
    if method is not None or spec_file is not None:
        wanted = chosen_spec(method, spec_file)
        for each in heads:
            same = wanted == each.spec if spec_file is not None else wanted.method == each.spec.method
            if not same:
                raise ValueError(
                    f"layer {each.layer} of {model} has {each.spec.name} in it; "
                    "leave METHOD and --spec out, or give that"
                )
    return [(each.spec, each) for each in heads]


def check_head_options(command: typer.Context, model: str | None) -> None:
    """Refuse, with a ValueError, the options of a model's head where there is no model."""
    if model is None:
        options = " and ".join(given(command, "layer", "head", "text", "context"))
        if options:
            raise ValueError(
                f"{options} say which head of a --model, and what to run it on; give one, or leave {options} out"
            )


def sizes(lanes: int, max_row: int, depth: int | None, storage: Storage | None, sets: int = 1) -> dict[str, Any]:
    """Return the sizes of a unit as `Spec.unit` takes them; one set of constants goes without saying."""
    several = {"sets": sets} if sets > 1 else {}
    return {"lanes": lanes, "max_row": max_row, "depth": depth, "storage": storage or STORAGE, **several}


def kind_of(constants: Kind | None, sets: int) -> Kind | None:
    """Return the kind of units that is asked for: several sets of constants are loadable ones.

    Raises:
        ValueError: they are to be baked in.
    """
    if sets > 1 and constants == "baked":
        raise ValueError(f"--sets {sets} are of loadable constants; leave --sets or --constants baked out")
    return "loadable" if sets > 1 else constants
