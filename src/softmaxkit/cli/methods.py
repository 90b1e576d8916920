"""`softmaxkit methods`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from softmaxkit.cli.console import JsonOption, command_line, results_console, write_record
from softmaxkit.record import make_record
from softmaxkit.methods import METHODS, method_class


def methods(
    method: Annotated[str | None, typer.Argument(help="This one alone.", show_default=False)] = None,
    json: JsonOption = None,
) -> None:
    """List the methods, with the fields of their specs, the default of each, and the choices where they are few."""
    specs = [method_class(name)() for name in ([method.lower()] if method else METHODS)]
    screen = results_console(json)
    for spec in specs:
        screen.print(f"[bold]{spec.method}[/bold]  {spec.summary}  [dim]({spec.source})[/dim]")
        table = Table(show_header=False, box=None, pad_edge=False)
        choices = spec.choices()
        for field in dataclasses.fields(spec):
            allowed = ", ".join(str(each) for each in choices.get(field.name, ()))
            table.add_row(f"  {field.name}", str(getattr(spec, field.name)), f"[dim]{allowed}[/dim]")
        screen.print(table, "")
    results = [
        {
            "method": spec.method,
            "variant": "",
            "spec": spec.to_json(),
            "summary": spec.summary,
            "source": spec.source,
            "training": spec.training,
        }
        for spec in specs
    ]
    write_record(make_record(command_line(), 0, {}, results), json)
