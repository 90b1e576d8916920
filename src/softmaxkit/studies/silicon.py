"""Which forms of each method are synthesised, and what to run them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from softmaxkit.flow.synthesize import Progress
    from softmaxkit.flow.vectors import Rows
    from softmaxkit.models.evaluation import RealScores
    from softmaxkit.studies.hardware import Trained


def cost_seen(seen: Sequence[RealScores], progress: Progress | None = None) -> dict[str, Any]:
    """Synthesise the unit of a method in a model: one lane, rows of up to 256, constants loadable.

    It runs with the constants of one of the model's heads, and on that head's scores where these make rows of 256.

    Args:
        seen: scores of every layer; the head is the first of the middle one.
        progress: called with steps done and all.

    Raises:
        ToolError: a tool is missing or failed.
    """
    from softmaxkit.flow.synthesize import synthesize
    from softmaxkit.studies.hardware import trained_head

    head = trained_head(seen[len(seen) // 2], 0)
    storage = "memory" if "memory" in head.spec.storages else "latches"
    unit = head.spec.for_hardware().unit(lanes=1, storage=storage)
    rows = longest_rows(head, unit.max_row)
    long = int(rows.lengths[0]) == unit.max_row
    found = synthesize(unit, constants=head.constants, rows=rows if long else None, progress=progress)
    if found.faults:
        raise RuntimeError(f"the netlist of {head.spec.method} differs from its integers: {'; '.join(found.faults)}")
    figures = found.figures()
    del figures["longest_path"], figures["instances_by_cell"]
    figures["netlist_outputs_verified"] = figures.pop("compared") - figures.pop("mismatches")
    return figures | {"lanes": unit.lanes, "latency_cycles": unit.latency(found.row)}


def longest_rows(trained: Trained, most: int) -> Rows:
    """Return those rows of a head that are as long as any, at most `most` scores."""
    rows = trained.rows.first(len(trained.rows.lengths), most)
    return rows.taken(np.nonzero(rows.lengths == rows.lengths.max())[0])
