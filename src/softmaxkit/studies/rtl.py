"""Export the unit of a method, or the units of a model's heads, as Verilog with a test bench and its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.files import whole_folder
from softmaxkit.flow.constraints import Constraints
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.hardware import TrainedHead, of_kind
from softmaxkit.studies.progress import Say, Stage

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions

SEED = 1
"""Seed of the random scores."""

SCORES = 4096
"""Minimum number of random scores in the test bench, for each of a method's examples, or for all heads together."""

MAXIMA = 256
"""Rows with scores near their maximum in the test bench, for each of a method's examples, or for all heads together."""

REAL_SCORES = 4 * SCORES
"""Minimum number of the model's own scores in the test bench, for all heads together."""

ROWS = 4
"""Minimum number of rows of each head in the test bench."""


@dataclass(frozen=True)
class RtlOptions:
    """What to export.

    Attributes:
        sizes: `lanes`, `max_row`, `depth` and `storage`, as for `Spec.unit`.
        folder: the output folder, which must be missing, empty, or an older export.
        kind: "baked" or "loadable" constants; None bakes in the constants of heads and makes those of a method without
            heads loadable.
        name: name of the top module; None derives it from the method. With several units, the head's name is appended.
        constraints: timing constraints.
        overwrite: replace an older export.
        shell: the shell around the units; None for none.
        sram: the macro that memories are made of, as for `softmaxkit.shell.sram.choose_macro`.
    """

    sizes: Mapping[str, Any]
    folder: Path
    kind: Kind | None = None
    name: str | None = None
    constraints: Constraints = field(default_factory=Constraints)
    overwrite: bool = False
    shell: ShellOptions | None = None
    sram: str | None = None

    @property
    def rows(self) -> int:
        """Number of rows that the heads of a unit contribute to its test bench together, so also one head's maximum."""
        return max(REAL_SCORES // max(int(self.sizes["max_row"]), 1), ROWS)


def write_rtl(
    chosen: Sequence[tuple[Spec, TrainedHead | None]],
    options: RtlOptions,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Export units: Verilog, a wrapper, a test bench with vectors, constraints and a note.

    Heads share a unit if their constants are equal or loadable. A single unit is written to the folder itself, several
    units to subfolders, each named after its first head.

    Args:
        chosen: one spec without a head, to use its examples and random scores; or specs with the heads whose constants
            and scores to use.
        options: what to export.
        command: the command line, for the record.
        stage: reports progress.
        say: called with the heads that share a unit.

    Returns:
        The record: a result for each head, or one for the spec, with the `folder` of its unit.

    Raises:
        ValueError: a size, name, clock or folder is invalid, or a method has no unit of this kind.
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    from softmaxkit.flow.export import check_export_folder

    check_export_folder(options.folder, options.overwrite)
    units: dict[tuple[Spec, Constants | None], list[TrainedHead]] = {}
    for spec, head in chosen:
        baked = head is not None if options.kind is None else options.kind == "baked"
        own = head.constants if head else spec.examples()[0]
        units.setdefault((spec, own if baked else None), []).extend([head] if head else [])
    progress = stage(f"write {len(units)} units" if len(units) > 1 else "write the unit")
    results = []
    with whole_folder(options.folder) as work:
        for done, ((spec, constants), heads) in enumerate(units.items(), 1):
            unit = spec.unit(constants=constants, **options.sizes)
            of_kind([unit], lambda unit: unit, options.kind)
            inside = heads[0].name if len(units) > 1 else ""
            name = "_".join(filter(None, (options.name or f"softmaxkit_{spec.method}", inside.replace("-", "_"))))
            _write(unit, name, work / inside, heads, options)
            results += _results(unit, name, options.folder / inside, heads)
            if len(heads) > 1:
                names = ", ".join(head.name for head in heads)
                shared = "with equal constants" if constants else "whose register writes are in tables.json"
                say(f"{options.folder / inside}: one unit for {len(heads)} heads {shared}: {names}")
            progress(done, len(units))
    inputs: dict[str, Any] = {"clock_ns": options.constraints.period}
    if options.shell is not None:
        inputs["shell"] = asdict(options.shell)
    if options.sram is not None:
        inputs["sram"] = options.sram
    return make_record(command, SEED, inputs, results)


def _write(unit: SoftmaxUnit, name: str, folder: Path, heads: Sequence[TrainedHead], options: RtlOptions) -> None:
    """Write the folder of one unit; its test bench has random scores, scores near maxima, and those of its heads."""
    from softmaxkit.flow.export import export
    from softmaxkit.flow.rows import near_rows, random_rows

    sets = list(dict.fromkeys(head.constants for head in heads)) or _examples(unit)
    share = len(sets) if heads else 1
    loads, random = unit.loads(sets), np.random.default_rng
    segments = [(constants, random_rows(unit, constants, SCORES // share, random(SEED))) for constants in loads]
    near = [(constants, near_rows(unit, constants, max(MAXIMA // share, 2), random(SEED))) for constants in loads]
    rows = max(options.rows // max(len(heads), 1), ROWS)
    segments += [(head.constants, head.rows.first(rows, unit.max_row)) for head in heads]
    names = {head.name: head.constants for head in heads}
    export(unit, name, folder, segments, options.constraints, names, options.shell, options.sram, near)


def _examples(unit: SoftmaxUnit) -> list[Constants]:
    """Return the constants of a method's examples with which a unit runs: only the first if it cannot load others."""
    examples = unit.spec.examples()
    return examples[:1] if unit.registers is None else examples


def _results(unit: SoftmaxUnit, name: str, folder: Path, heads: Sequence[TrainedHead]) -> list[dict[str, Any]]:
    """Return a result for each head of a unit, or a single one if it has no heads."""
    places: list[tuple[int | None, int | None, list[Constants]]] = [(None, None, _examples(unit))]
    if heads:
        places = [(head.layer, head.number, [head.constants]) for head in heads]
    return [
        make_result(
            unit.spec,
            "hardware",
            unit="baked" if unit.registers is None else "loadable",
            layer=layer,
            head=number,
            folder=str(folder),
            name=name,
            lanes=unit.lanes,
            max_row=unit.max_row,
            depth=unit.depth,
            storage=unit.storage,
            **({"sets": unit.sets} if unit.sets > 1 else {}),
            latency_cycles=unit.latency(unit.max_row),
            interval_cycles=unit.interval(unit.max_row),
            constants=[head.to_json() for head in constants],
        )
        for layer, number, constants in places
    ]
