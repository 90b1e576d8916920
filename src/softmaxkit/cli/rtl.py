"""`softmaxkit rtl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import ContextOption, OverwriteOption, SpecOption, TextOption, console
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


def rtl(
    method: Annotated[str | None, typer.Argument(help="exact, consmax, softermax or exaq.", show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the unit.")] = Path(
        "softmaxkit-rtl"
    ),
    lanes: LanesOption = 16,
    max_row: MaxRowOption = 256,
    depth: DepthOption = None,
    storage: StorageOption = "flip-flops",
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    constants: Annotated[
        str | None,
        typer.Option(help="baked or loadable.", show_default="baked with --model, loadable without"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the top module.", show_default="softmaxkit_METHOD")] = None,
    clock: Annotated[float, typer.Option(help="Clock period in ns, for the timing constraints.")] = 5.0,
    text: TextOption = None,
    context: ContextOption = Recipe().context,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the hardware unit of a method as Verilog, with a test bench, vectors, an AXI-Stream wrapper and a note."""
    import numpy as np

    import softmaxkit.blocks  # noqa: F401  # says what is missing, if anything is
    from softmaxkit.flow.export import check_export_folder, export
    from softmaxkit.flow.rows import random_rows

    if constants not in (None, "baked", "loadable"):
        raise ValueError(f"--constants is baked or loadable, not {constants!r}")
    check_export_folder(output, overwrite)
    chosen, trained = chosen_unit(method, spec, model, layer, head, text, context)
    examples = chosen.examples() if trained is None else [trained.constants]
    baked = constants == "baked" or (constants is None and trained is not None)
    unit = chosen.unit(constants=examples[0] if baked else None, **sizes(lanes, max_row, depth, storage))
    used = examples[:1] if unit.registers is None else examples
    segments = [(each, random_rows(unit, each, 4096, np.random.default_rng(1))) for each in used]
    if trained is not None:
        segments.append((trained.constants, trained.rows.first(max(4096 // max_row, 1) * 4, max_row)))
    export(unit, name or f"softmaxkit_{chosen.method}", output, segments, clock, overwrite)
    console.print(f"{chosen.method}, {lanes} lanes: {output}; begin with {output / 'README.md'}", soft_wrap=True)
