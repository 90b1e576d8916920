"""`softmaxkit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    SeedOption,
    SpecOption,
    TextOption,
    command_line,
    console,
    results_console,
    stages,
    write_record,
)
from softmaxkit.cli.units import (
    DepthOption,
    HeadOption,
    LanesOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    StorageOption,
    chosen_unit,
    sizes,
)
from softmaxkit.recipe import Recipe
from softmaxkit.record import make_record, make_result
from softmaxkit.methods import METHODS

if TYPE_CHECKING:
    from softmaxkit.flow.verify import Verification


def verify(
    method: Annotated[
        str | None, typer.Argument(help="exact, consmax, softermax, exaq, or all.", show_default=False)
    ] = None,
    lanes: LanesOption = 16,
    max_row: MaxRowOption = 256,
    depth: DepthOption = None,
    storage: StorageOption = "flip-flops",
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    outputs: Annotated[int, typer.Option(min=1, help="Outputs to compare of each method, at least.")] = 2_000_000,
    inject_fault: Annotated[
        bool, typer.Option("--inject-fault", help="Break one gate or table bit, which --seed chooses, first.")
    ] = False,
    waveform: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the waveform (VCD) of the first run that goes wrong, or of one."),
    ] = None,
    seed: SeedOption = 0,
    text: TextOption = None,
    context: ContextOption = Recipe().context,
    json: JsonOption = None,
) -> None:
    """Compare every output of a method's hardware unit with the exact integers; exit code 1 where one differs."""
    import softmaxkit.blocks  # noqa: F401  # says what is missing, if anything is
    from softmaxkit.flow.faults import Fault
    from softmaxkit.flow.simulate import can_verilate
    from softmaxkit.flow.verify import verify as verify_unit
    from softmaxkit.studies.hardware import forms

    every = method == "all"
    if every and (spec is not None or model is not None):
        raise ValueError("'all' stands for the methods' defaults; leave it out with --spec or --model")
    chosen = [chosen_unit(each, spec, model, layer, head, text, context) for each in (METHODS if every else [method])]
    if not can_verilate():
        console.print(
            "Verilator, make, perl or a C++ compiler is missing: Amaranth's simulator compares a fiftieth of the "
            "outputs; get them with pip install 'softmaxkit[hardware]' and your system's packages make, perl and g++"
        )
    results: list[dict[str, Any]] = []
    with stages() as stage:
        for each, trained in chosen:
            units = list(forms(each, trained.constants if trained else None, **sizes(lanes, max_row, depth, storage)))
            for title, unit, constants in units:
                rows = [] if trained is None else [(trained.constants, trained.rows.first(2000, max_row))]
                fault = Fault(seed) if inject_fault else None
                found = verify_unit(
                    unit,
                    constants,
                    -(-outputs // len(units)),
                    seed,
                    rows,
                    fault,
                    waveform,
                    stage(" ".join(filter(None, ("verify", each.method, each.variant, title)))),
                )
                _say(found, fault)
                results.append(
                    make_result(
                        each,
                        "hardware",
                        unit=title,
                        lanes=lanes,
                        max_row=max_row,
                        depth=unit.depth,
                        storage=storage,
                        constants=[
                            str(given) if not hasattr(given, "to_json") else given.to_json() for given in constants
                        ],
                        simulator=found.simulator,
                        compared=found.compared,
                        mismatches=found.mismatches,
                        faults=found.faults,
                        wrong=[wrong._asdict() for wrong in found.wrong],
                        exhausted=found.parts,
                        cycles=found.cycles,
                        seconds=round(found.seconds, 3),
                        injected_fault=fault and fault.what,
                    )
                )
    results_console(json).print(_table(results))
    write_record(make_record(command_line(), seed, {"outputs": outputs}, results), json)
    if missed := [result["injected_fault"] for result in results if inject_fault and not result["faults"]]:
        raise RuntimeError(
            f"an injected fault was not noticed, since no result that was compared depends on it: {'; '.join(missed)}; "
            "choose another with --seed, or compare more with --outputs"
        )
    failed = [result for result in results if result["faults"] or not result["compared"]]
    if failed:
        names = ", ".join(dict.fromkeys(f"{result['method']} {result['unit']}".strip() for result in failed))
        raise RuntimeError(f"the hardware differs from the integers it stands for: {names}")


def _say(found: Verification, fault: Any) -> None:
    """Print what was broken and what is wrong."""
    if fault is not None:
        console.print(f"injected: {fault.what}")
    for each in found.faults:
        console.print(f"wrong: {each}")
    for wrong in found.wrong[:10]:
        console.print(f"  {wrong}")


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="Outputs of the hardware against the integers", box=SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("unit")
    for heading in ("lanes", "compared", "mismatches", "cycles", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("simulator")
    for result in results:
        table.add_row(
            f"{result['method']} {result['variant']}".strip(),
            result["unit"],
            str(result["lanes"]),
            f"{result['compared']:,}",
            f"{result['mismatches']:,}" if result["compared"] else "nothing compared",
            f"{result['cycles']:,}",
            f"{result['seconds']:.1f}",
            result["simulator"],
        )
    return table
