"""The hardware cost of a model's method: its unit, synthesised and run with the scores of one of the model's heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from softmaxkit.methods.base.forms import KIND_TITLES, Kind
from softmaxkit.studies.hardware import TrainedHead, head_of_layer
from softmaxkit.studies.progress import Progress
from softmaxkit.studies.silicon import supported_sizes

if TYPE_CHECKING:
    from softmaxkit.models.evaluation import RealScores


def cost_of_scores(scores: Sequence[RealScores], progress: Progress | None = None) -> dict[str, Any]:
    """Synthesise the unit of a model's method with one lane, in sky130, for rows of 256 or longer ones of the model.

    The unit runs with the constants of the first head of the middle layer, and with this head's scores if its longest
    rows have at least 256, else with the package's sample of real scores.

    Args:
        scores: the scores of every layer.
        progress: called with the number of steps done and their total.

    Returns:
        Figures for the record, of the first of `spec.compared_kinds`; those of the other kinds are in `forms`.

    Raises:
        ToolError: a tool is missing or failed.
        RuntimeError: the netlist differs from its integers.
    """
    from softmaxkit.flow.figures import ROW

    middle = len(scores) // 2
    head = head_of_layer(scores[middle], middle, 0)
    sizes = {"lanes": 1, "max_row": max(ROW, int(head.rows.lengths.max())), "storage": "memory"}
    kinds = head.spec.compared_kinds
    costs = [
        _cost_of_head(head, kind, sizes, partial(_overall, progress, n, len(kinds))) for n, kind in enumerate(kinds)
    ]
    others = [{"form": f"constants {KIND_TITLES[kind]}", **cost} for kind, cost in zip(kinds, costs, strict=True)][1:]
    return costs[0] | ({"forms": others} if others else {})


def _overall(progress: Progress | None, number: int, pieces: int, done: int, steps: int) -> None:
    """Report progress within one of several pieces of work of equal weight."""
    if progress is not None:
        progress(number * steps + done, pieces * steps)


def _cost_of_head(head: TrainedHead, kind: Kind, sizes: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Synthesise the unit of a head, with baked-in or loadable constants, and return its figures."""
    from softmaxkit.flow.figures import ROW
    from softmaxkit.flow.synthesize import synthesize

    spec = head.spec.for_hardware()
    unit = spec.unit(constants=head.constants if kind == "baked" else None, **supported_sizes(spec, sizes, "sky130"))
    rows = head.longest_rows(ROW)
    fills = int(rows.lengths[0]) == ROW
    synthesis = synthesize(unit, constants=head.constants, rows=rows if fills else None, progress=progress)
    if synthesis.faults:
        faults = "; ".join(synthesis.faults)
        raise RuntimeError(f"the netlist of {head.spec.method} differs from its integers: {faults}")
    figures = synthesis.figures()
    del figures["longest_path"], figures["instances_by_cell"]
    figures["netlist_outputs_verified"] = figures.pop("compared") - figures.pop("mismatches")
    about = {"lanes": unit.lanes, "max_row": unit.max_row, "latency_cycles": unit.latency(synthesis.row)}
    return figures | about
