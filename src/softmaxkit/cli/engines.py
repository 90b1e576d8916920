"""Options of the verbs for hardware where they are asked for an attention engine in place of a unit."""

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
"""Stands for an attention engine, where a verb takes a method."""

OF_ENGINES = ("of_method", "rows", "columns", "channels", "keys", "pipeline")
"""Options for engines, which a unit has no use for."""

OF_UNITS = ("lanes", "max_row", "model", "layer", "head", "text", "context")
"""Options for units, which an engine has no use for."""

_DEFAULT = EngineOptions()


def unit_argument(*also: str) -> object:
    """Return the argument of a method's name, or an engine; `also` are other words that it takes."""
    return method_argument(f"{any_of([*ALL_METHODS, *also, ENGINE])}{OR_RIVALS}.", *also, ENGINE)


OfMethodOption = Annotated[
    str | None,
    typer.Option("--method", help="Engine: the method of its unit, or all with verify; or --spec.", show_default=False),
]
RowsOption = Annotated[int, typer.Option(help="Engine: keys at a time.")]
ColumnsOption = Annotated[int, typer.Option(help="Engine: channels at a time, which divide --channels.")]
ChannelsOption = Annotated[int, typer.Option(help="Engine: channels of a query.")]
KeysOption = Annotated[int, typer.Option(help="Engine: keys that its buffers hold.")]
PipelineOption = Annotated[
    Literal["token", "element", "deferred"] | None,
    typer.Option(
        help="Engine: the division last, or as the unit has it.", show_default="the unit's own; with verify all"
    ),
]
ROWS, COLUMNS, CHANNELS, KEYS = _DEFAULT.rows, _DEFAULT.columns, _DEFAULT.channels, _DEFAULT.max_keys


def chosen_engine(command: typer.Context, of_method: str | None, spec: Path | None, *unused: str) -> Spec:
    """Return the method of an engine; refuse options that are for units, and those `unused`.

    Raises:
        ValueError: such an option is given, or no method.
    """
    refuse(given(command, *OF_UNITS, *unused), "an engine has --rows, --columns, --channels and --keys")
    if of_method is None and spec is None:
        raise ValueError("an engine takes --method or --spec FILE; 'softmaxkit methods' lists the methods")
    return chosen_spec(of_method, spec)


def refuse_engine_options(command: typer.Context) -> None:
    """Refuse the options of engines where a unit is asked for.

    Raises:
        ValueError: there are some.
    """
    refuse(given(command, *OF_ENGINES), f"these are for {ENGINE!r} in place of METHOD")
