"""`softmaxkit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, note, reported, stages
from softmaxkit.cli.engines import (
    CHANNELS,
    COLUMNS,
    ENGINE,
    KEYS,
    ROWS,
    ChannelsOption,
    ColumnsOption,
    KeysOption,
    OfMethodOption,
    PipelineOption,
    RowsOption,
    chosen_engine,
    refuse_engine_options,
    unit_argument,
)
from softmaxkit.cli.options import (
    ALL,
    ContextOption,
    JsonOption,
    SeedOption,
    SpecOption,
    given,
    output_file,
)
from softmaxkit.cli.units import (
    LANES,
    MAX_ROW,
    STORAGE,
    DepthOption,
    HeadOption,
    HeadTextOption,
    LanesOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    SetsOption,
    StorageOption,
    check_head_options,
    chosen_units,
    constants_option,
    kind_of,
    sizes,
)
from softmaxkit.methods import ALL_METHODS
from softmaxkit.methods.base.forms import Kind
from softmaxkit.recipe import Recipe


def verify(
    command: typer.Context,
    method: Annotated[str | None, unit_argument(ALL)] = None,
    lanes: LanesOption = LANES,
    max_row: MaxRowOption = MAX_ROW,
    depth: DepthOption = None,
    storage: StorageOption = STORAGE,
    constants: Annotated[Kind | None, constants_option("both")] = None,
    sets: SetsOption = 1,
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    outputs: Annotated[
        int, typer.Option(min=1, help="Minimum number of outputs to compare per method; for engines, 200,000.")
    ] = 2_000_000,
    inject_fault: Annotated[
        bool,
        typer.Option(
            "--inject-fault",
            help="Test the check itself: first break a gate or table bit, selected by --seed; the run must then fail.",
        ),
    ] = False,
    waveform: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=output_file,
            help="Write the waveform (VCD) of the first failing run, or of a short run if none fails.",
        ),
    ] = None,
    seed: SeedOption = 0,
    text: HeadTextOption = None,
    context: ContextOption = Recipe().context,
    of_method: OfMethodOption = None,
    rows: RowsOption = ROWS,
    columns: ColumnsOption = COLUMNS,
    channels: ChannelsOption = CHANNELS,
    keys: KeysOption = KEYS,
    pipeline: PipelineOption = None,
    json: JsonOption = None,
) -> None:
    """Simulate a method's hardware unit and compare every output with the exact integers; exit code 1 if any differs.

    With "engine" in place of METHOD, verify an attention engine around the unit of --method, including its cycles.
    """
    from softmaxkit.studies.hardware import require_amaranth

    require_amaranth()
    from softmaxkit.engine.verify import OUTPUTS
    from softmaxkit.flow.tools import missing_hardware
    from softmaxkit.studies.engines import EngineOptions, verify_engines
    from softmaxkit.studies.verification import VerificationOptions, verify_units

    if missing := missing_hardware():
        note(f"Amaranth's simulator compares a fiftieth of the outputs: {missing}")
    if method == ENGINE:
        engine = EngineOptions(rows, columns, channels, keys, pipeline, storage, depth)
        of_all = [*ALL_METHODS] if of_method == ALL and spec is None else [of_method]
        specs = [chosen_engine(command, name, spec, "constants", "sets") for name in of_all]
        compared = outputs if given(command, "outputs") else OUTPUTS
        with stages() as stage:
            record = verify_engines(specs, engine, compared, seed, inject_fault, waveform, command_line(), stage, note)
        _finish(record, json, inject_fault)
        return
    refuse_engine_options(command)
    every = method == ALL
    if every and (spec is not None or model is not None):
        raise ValueError(f"{ALL!r} selects the methods' defaults; leave it out with --spec or --model")
    check_head_options(command, model)
    names = [*ALL_METHODS] if every else [method]
    chosen = [unit for name in names for unit in chosen_units(name, spec, model, layer, head, text, context)]
    unit_sizes = sizes(lanes, max_row, depth, storage, sets)
    options = VerificationOptions(unit_sizes, outputs, seed, inject_fault, waveform, kind_of(constants, sets))
    with stages() as stage:
        record = verify_units(chosen, options, command_line(), stage, note)
    _finish(record, json, inject_fault)


def _finish(record: dict[str, Any], json: Path | None, inject_fault: bool) -> None:
    """Print the table, write the record, and raise RuntimeError on failures."""
    results = record["results"]
    with reported(record, json) as screen:
        screen.print(_table(results))
    _raise_failures(results, inject_fault)


def _raise_failures(results: list[dict[str, Any]], inject_fault: bool) -> None:
    """Raise RuntimeError if a unit is wrong, or if an injected fault was not detected."""
    if missed := [result["injected_fault"] for result in results if inject_fault and not result["faults"]]:
        raise RuntimeError(
            f"an injected fault was not detected, since no compared output depends on it: {'; '.join(missed)}; "
            "choose another with --seed, or compare more outputs with --outputs"
        )
    if failed := [result for result in results if result["faults"] or not result["compared"]]:
        names = ", ".join(dict.fromkeys(f"{result['method']} {result['unit']}".strip() for result in failed))
        raise RuntimeError(f"the hardware differs from the exact integers: {names}")


def _table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="Hardware outputs compared with the exact integers", box=SIMPLE_HEAD)
    table.add_column("method")
    table.add_column("unit")
    for heading in ("lanes", "compared", "mismatches", "cycles", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("simulator")
    for result in results:
        table.add_row(
            name_of(result),
            result["unit"],
            str(result["lanes"]),
            f"{result['compared']:,}",
            f"{result['mismatches']:,}" if result["compared"] else "nothing compared",
            f"{result['cycles']:,}",
            f"{result['seconds']:.1f}",
            result["simulator"],
        )
    return table
