"""`softmaxkit rtl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import console
from softmaxkit.cli.options import (
    ContextOption,
    MethodArgument,
    OverwriteOption,
    SpecOption,
    TextOption,
    output_folder,
)
from softmaxkit.cli.units import (
    LANES,
    MAX_ROW,
    STORAGE,
    DepthOption,
    HeadOption,
    LanesOption,
    LayerOption,
    MaxRowOption,
    ModelOption,
    StorageOption,
    chosen_unit,
    constants_option,
    sizes,
)
from softmaxkit.methods.base.forms import Kind
from softmaxkit.recipe import Recipe


def rtl(
    method: MethodArgument = None,
    output: Annotated[Path, output_folder("Folder for the unit.")] = Path("softmaxkit-rtl"),
    lanes: LanesOption = LANES,
    max_row: MaxRowOption = MAX_ROW,
    depth: DepthOption = None,
    storage: StorageOption = STORAGE,
    constants: Annotated[Kind | None, constants_option("baked with --model, loadable without")] = None,
    spec: SpecOption = None,
    model: ModelOption = None,
    layer: LayerOption = 0,
    head: HeadOption = 0,
    name: Annotated[str | None, typer.Option(help="Name of the top module.", show_default="softmaxkit_METHOD")] = None,
    clock: Annotated[float, typer.Option(help="Clock period in ns, for the timing constraints.")] = 5.0,
    text: TextOption = None,
    context: ContextOption = Recipe().context,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the hardware unit of a method as Verilog, with a test bench, vectors, an AXI-Stream wrapper and a note."""
    from softmaxkit.studies.hardware import require_amaranth

    require_amaranth()
    from softmaxkit.flow.export import check_export_folder
    from softmaxkit.studies.rtl import RtlOptions, write_rtl

    check_export_folder(output, overwrite)
    chosen, trained = chosen_unit(method, spec, model, layer, head, text, context)
    unit_sizes = sizes(lanes, max_row, depth, storage)
    write_rtl(chosen, trained, RtlOptions(unit_sizes, output, constants, name, clock, overwrite))
    console.print(f"{chosen.method}, {lanes} lanes: {output}; begin with {output / 'README.md'}", soft_wrap=True)
