"""`softmaxkit methods`."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from softmaxkit.cli.console import JsonOption, command_line, results_console, write_record
from softmaxkit.record import make_record
from softmaxkit.spec import METHODS, method_class


def methods(json: JsonOption = None) -> None:
    """List the methods, with the fields of their specs and the default of each."""
    specs = [method_class(name)() for name in METHODS]
    screen = results_console(json)
    for spec in specs:
        table = Table(
            title=f"[bold]{spec.method}[/bold]  {spec.summary}  [dim]({spec.source})[/dim]",
            title_justify="left",
            show_header=False,
            box=None,
            pad_edge=False,
        )
        for field in dataclasses.fields(spec):
            table.add_row(f"  {field.name}", str(getattr(spec, field.name)))
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
