"""A method's unit as a folder of Verilog, or those of a model's heads, with a test bench that runs rows of its own."""

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
"""Of the random scores."""

SCORES = 4096
"""Random scores that the test bench runs with each set of a method's examples, or with all heads, at least."""

REAL_SCORES = 4 * SCORES
"""Scores of the model itself that the test bench runs with all heads, at least."""

ROWS = 4
"""Rows that it runs of each head, at least."""


@dataclass(frozen=True)
class RtlOptions:
    """What to write.

    Attributes:
        sizes: `lanes`, `max_row`, `depth` and `storage`, as for `Spec.unit`.
        folder: to write; missing, empty, or an older export.
        kind: are constants baked in or loadable? None: those of heads are baked in, a method's examples are not.
        name: of the top module; None for one after the method. Where there are several units, the head's follows.
        constraints: of timing.
        overwrite: replace an older export.
        shell: to write around the units.
        sram: macro that their memories are made of, as `softmaxkit.shell.sram.choose_macro` takes it.
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
        """Rows that the heads of a unit give to its test bench together, and so the most that one gives."""
        return max(REAL_SCORES // max(int(self.sizes["max_row"]), 1), ROWS)


def write_rtl(
    chosen: Sequence[tuple[Spec, TrainedHead | None]],
    options: RtlOptions,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Write units: Verilog, a wrapper, a test bench with vectors, constraints and a note.

    Heads share a unit where their constants are equal, or loaded. One unit is written to the folder itself, several
    to folders in it, each named after its first head.

    Args:
        chosen: a spec, for its examples and random scores; or specs with the heads whose constants and scores to use.
        options: what to write.
        command: for the record.
        stage: shows progress.
        say: called with which heads share a unit.

    Returns:
        the record: a result for each head, or one for the spec, with the `folder` of its unit.

    Raises:
        ValueError: sizes, a name, a clock or a folder that cannot be, or a method has no unit of the kind.
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
                same = "of equal constants" if constants else "whose writes are in tables.json"
                say(f"{options.folder / inside}: one unit for {len(heads)} heads {same}: {names}")
            progress(done, len(units))
    inputs: dict[str, Any] = {"clock_ns": options.constraints.period}
    if options.shell is not None:
        inputs["shell"] = asdict(options.shell)
    if options.sram is not None:
        inputs["sram"] = options.sram
    return make_record(command, SEED, inputs, results)


def _write(unit: SoftmaxUnit, name: str, folder: Path, heads: Sequence[TrainedHead], options: RtlOptions) -> None:
    """Write the folder of one unit, whose test bench runs random scores and those of its heads."""
    from softmaxkit.flow.export import export
    from softmaxkit.flow.rows import random_rows

    sets = list(dict.fromkeys(head.constants for head in heads)) or _examples(unit)
    scores = SCORES // len(sets) if heads else SCORES
    segments = [
        (constants, random_rows(unit, constants, scores, np.random.default_rng(SEED))) for constants in unit.loads(sets)
    ]
    rows = max(options.rows // max(len(heads), 1), ROWS)
    segments += [(head.constants, head.rows.first(rows, unit.max_row)) for head in heads]
    names = {head.name: head.constants for head in heads}
    export(unit, name, folder, segments, options.constraints, names, options.shell, options.sram)


def _examples(unit: SoftmaxUnit) -> list[Constants]:
    """Return the constants of a method's examples that a unit runs with: the first, where it cannot be loaded."""
    examples = unit.spec.examples()
    return examples[:1] if unit.registers is None else examples


def _results(unit: SoftmaxUnit, name: str, folder: Path, heads: Sequence[TrainedHead]) -> list[dict[str, Any]]:
    """Return a result for each head of a unit, or one where it has none."""
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
            constants=[each.to_json() for each in constants],
        )
        for layer, number, constants in places
    ]
