"""A method's unit as a folder of Verilog, with a test bench that runs rows of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmaxkit.methods.base.forms import Kind, of_kind
from softmaxkit.methods.base.spec import Spec
from softmaxkit.studies.hardware import TrainedHead

SCORES = 4096
"""Random scores that the test bench runs with each set of constants, at least."""


@dataclass(frozen=True)
class RtlOptions:
    """What to write.

    Attributes:
        sizes: `lanes`, `max_row`, `depth` and `storage`, as for `Spec.unit`.
        folder: to write; missing, empty, or an older export.
        kind: are constants baked in or loadable? None: those of a head are baked in, a method's examples are not.
        name: of the top module; None for one after the method.
        clock: period in ns, for the timing constraints.
        overwrite: replace an older export.
    """

    sizes: Mapping[str, Any]
    folder: Path
    kind: Kind | None = None
    name: str | None = None
    clock: float = 5.0
    overwrite: bool = False


def write_rtl(spec: Spec, head: TrainedHead | None, options: RtlOptions) -> None:
    """Write the unit of a spec: Verilog, a wrapper, a test bench with vectors, constraints and a note.

    Args:
        spec: the method.
        head: of a model, whose constants and scores to use; None for the spec's examples and random scores.
        options: what to write.

    Raises:
        ValueError: sizes, a name, a clock or a folder that cannot be.
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    from softmaxkit.flow.export import export
    from softmaxkit.flow.rows import random_rows

    examples = spec.examples() if head is None else [head.constants]
    baked = head is not None if options.kind is None else options.kind == "baked"
    unit = spec.unit(constants=examples[0] if baked else None, **options.sizes)
    of_kind([unit], lambda unit: unit, options.kind)
    used = examples[:1] if unit.registers is None else examples
    segments = [(constants, random_rows(unit, constants, SCORES, np.random.default_rng(1))) for constants in used]
    if head is not None:
        max_row = unit.max_row
        segments.append((head.constants, head.rows.first(max(SCORES // max_row, 1) * 4, max_row)))
    name = options.name or f"softmaxkit_{spec.method}"
    export(unit, name, options.folder, segments, options.clock, options.overwrite)
