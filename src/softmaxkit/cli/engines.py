"""Options of the hardware verbs for an attention engine instead of a single unit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softmaxkit.cli.options import OR_RIVALS, any_of, chosen_spec, given, method_argument, refuse
from softmaxkit.methods import ALL_METHODS
from softmaxkit.studies.engines import EngineOptions

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec

ENGINE = "engine"
"""The METHOD argument that selects an attention engine."""

OF_ENGINES = ("of_method", "rows", "columns", "channels", "keys", "pipeline")
"""Options that apply only to engines."""

OF_UNITS = ("lanes", "max_row", "model", "layer", "head", "text", "context")
"""Options that apply only to units."""

_DEFAULT = EngineOptions()


def unit_argument(*also: str) -> object:
    """Return the METHOD argument, which also accepts "engine" and the words in `also`."""
    return method_argument(f"{any_of([*ALL_METHODS, *also, ENGINE])}{OR_RIVALS}.", *also, ENGINE)


OfMethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="Engine: the method of its softmax unit (verify also accepts all), unless --spec is given.",
        show_default=False,
    ),
]
RowsOption = Annotated[int, typer.Option(help="Engine: keys processed in parallel.")]
ColumnsOption = Annotated[int, typer.Option(help="Engine: channels processed in parallel, a divisor of --channels.")]
ChannelsOption = Annotated[int, typer.Option(help="Engine: channels of a query, key or value.")]
KeysOption = Annotated[int, typer.Option(help="Engine: capacity of its buffers in keys.")]
PipelineOption = Annotated[
    Literal["token", "element", "deferred"] | None,
    typer.Option(
        help="Engine: row by row (token), score by score (element), or with the division last (deferred).",
        show_default="that of the unit; all with verify",
    ),
]
ROWS, COLUMNS, CHANNELS, KEYS = _DEFAULT.rows, _DEFAULT.columns, _DEFAULT.channels, _DEFAULT.max_keys


def chosen_engine(command: typer.Context, of_method: str | None, spec: Path | None, *unused: str) -> Spec:
    """Return the spec of an engine's unit; reject options that apply only to units, and those in `unused`.

    Raises:
        ValueError: there is such an option, or no method.
    """
    refuse(given(command, *OF_UNITS, *unused), "an engine has --rows, --columns, --channels and --keys")
    if of_method is None and spec is None:
        raise ValueError("an engine takes --method or --spec FILE; 'softmaxkit methods' lists the methods")
    return chosen_spec(of_method, spec)


def refuse_engine_options(command: typer.Context) -> None:
    """Reject engine options on the command line of a unit.

    Raises:
        ValueError: there are some.
    """
    refuse(given(command, *OF_ENGINES), f"only for use with {ENGINE!r} in place of METHOD")
