"""`softmaxkit methods`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from rich.table import Table
from rich.text import Text

from softmaxkit.cli.console import command_line, reported
from softmaxkit.cli.options import JsonOption, method_argument
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record


def methods(
    method: Annotated[str | None, method_argument("List only this method.")] = None,
    json: JsonOption = None,
) -> None:
    """List the methods with the fields of their specs, their defaults and, for enumerated fields, the choices."""
    specs = [method_class(name)() for name in ([method] if method else METHODS)]
    results = [
        {
            "method": spec.method,
            "variant": "",
            "spec": spec.to_json(),
            "summary": spec.summary,
            "source": spec.source,
            "training": spec.training,
            "rival": spec.rival,
        }
        for spec in specs
    ]
    with reported(make_record(command_line(), 0, {}, results), json) as screen:
        for spec in specs:
            rival = "  a rival, for comparison: " if spec.rival else "  "
            screen.print(Text.assemble((spec.method, "bold"), f"{rival}{spec.summary}  ", (f"({spec.source})", "dim")))
            screen.print(_fields(spec), "")


def _fields(spec: Spec) -> Table:
    """Return a table with a row per field: name, default, choices."""
    table = Table(show_header=False, box=None, pad_edge=False)
    choices = spec.choices()
    for field in dataclasses.fields(spec):
        names = ", ".join(map(str, choices.get(field.name, ())))
        table.add_row(f"  {field.name}", str(getattr(spec, field.name)), Text(names, "dim"))
    return table
