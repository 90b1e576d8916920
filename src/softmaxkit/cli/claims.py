"""`softmaxkit claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, reported, stages
from softmaxkit.cli.options import JsonOption, methods_option, output_file
from softmaxkit.methods import METHODS


def claims(
    records: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of the records to judge by; the repository has one.",
        ),
    ] = Path("results"),
    method: Annotated[list[str] | None, methods_option("Judge the claims of this method's paper.", "all")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="First run the measurements that take only seconds, into DIR/claims.")
    ] = False,
    json: JsonOption = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="PATH", callback=output_file, help="Write the ledger as Markdown.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", callback=output_file, help="Write the ledger as an HTML page.")
    ] = None,
) -> None:
    """Judge the claims of the methods' papers by our own measurements.

    Figures and verdicts come from records. A claim without a record counts as not measured, and the command that
    measures it is shown.
    """
    from softmaxkit.report.claims import claims_markdown, render_claims
    from softmaxkit.report.ledger import tally
    from softmaxkit.studies.claims import judge_claims, measure_claims

    names = method or [*METHODS]
    if measure:
        with stages() as stage:
            measure_claims(names, records, command_line(), stage)
    record = judge_claims(names, records, command_line())
    with reported(record, json, (markdown, claims_markdown), (html, render_claims)) as screen:
        screen.print(_table(record["results"]))
        screen.print(f"{tally(record['results'])}")


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table("claim", "paper", "here", "verdict", box=SIMPLE_HEAD, show_lines=True)
    for result in results:
        here = result["measured"] or result["why"]
        if not result["measured"] and result["records"]:
            here += "".join(f"\n{command}" for command in result["records"].values())
        table.add_row(result["id"], result["published"], here, result["verdict"])
    return table
