"""Which forms of each method are synthesised, and what to run them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxkit.formats import FP16, UQ
from softmaxkit.methods.consmax import ConSmax
from softmaxkit.methods.exact import Exact
from softmaxkit.methods.exaq import Exaq
from softmaxkit.methods.softermax import Softermax
from softmaxkit.spec import Spec

if TYPE_CHECKING:
    from softmaxkit.flow.synthesize import Progress
    from softmaxkit.flow.vectors import Rows
    from softmaxkit.methods.unit import SoftmaxUnit
    from softmaxkit.models.evaluation import RealScores
    from softmaxkit.studies.hardware import Trained


class Form(NamedTuple):
    """A form of a method in silicon.

    Attributes:
        title: what is special about it, in a few words.
        spec: the method.
        baked: are its constants, those of `spec.examples()[0]`, baked in?
    """

    title: str
    spec: Spec
    baked: bool = False

    def unit(self, **sizes: Any) -> SoftmaxUnit:
        """Return the unit, of sizes as for `Spec.unit`."""
        constants = self.spec.examples()[0] if self.baked else None
        return self.spec.unit(constants=constants, **sizes)


FORMS: dict[str, tuple[Form, ...]] = {
    "exact": (Form("three-pass", Exact()), Form("online", Exact(schedule="online"))),
    "consmax": (
        Form("constant tables, C folded", ConSmax(), True),
        Form("constant tables, C multiplied", ConSmax(constant="multiplied"), True),
        Form("FP16 constant tables, C folded", ConSmax(table_format=FP16), True),
        Form("fixed-point constant tables", ConSmax(table_format=UQ(0, 9)), True),
        Form("D = ln2/16, a shift", ConSmax(tables="shift"), True),
        Form("one constant table of 256", ConSmax(tables="whole"), True),
        Form("loadable tables", ConSmax()),
    ),
    "softermax": (Form("", Softermax()),),
    "exaq": (
        Form("2 bits, constant clip", Exaq(bits=2, accumulator="plain"), True),
        Form("3 bits, constant clip", Exaq(bits=3, accumulator="plain"), True),
        Form("2 bits, loadable clip", Exaq(bits=2, accumulator="plain")),
    ),
}
"""What `softmaxkit synth METHOD` shows of each method."""


def forms_of(spec: Spec) -> Iterator[Form]:
    """Yield the forms of one spec: with loadable constants, and with baked ones where it has constants."""
    if spec.unit().registers is not None:
        yield Form("constants baked in", spec, True)
        yield Form("constants loadable", spec)
    else:
        yield Form("", spec)


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
    rows_held = "memory" if head.spec.method != "consmax" else "latches"
    unit = _loadable(head.spec).unit(lanes=1, storage=rows_held)
    rows = longest_rows(head, unit.max_row)
    long = int(rows.lengths[0]) == unit.max_row
    found = synthesize(unit, constants=head.constants, rows=rows if long else None, progress=progress)
    if found.faults:
        raise RuntimeError(f"the netlist of {head.spec.method} differs from its integers: {'; '.join(found.faults)}")
    figures = found.figures()
    del figures["longest_path"], figures["instances_by_cell"]
    figures["netlist_outputs_verified"] = figures.pop("compared") - figures.pop("mismatches")
    return figures | {"lanes": unit.lanes, "latency_cycles": unit.latency(found.row)}


def _loadable(spec: Spec) -> Spec:
    """Return the form of a spec that costs least with loadable constants: the same integers, other gates.

    EXAQ's packed sums are made for software; a unit would have to hold all of them in registers.
    """
    return replace(spec, accumulator="plain") if isinstance(spec, Exaq) else spec


def longest_rows(trained: Trained, most: int) -> Rows:
    """Return those rows of a head that are as long as any, at most `most` scores."""
    rows = trained.rows.first(len(trained.rows.lengths), most)
    return rows.taken(np.nonzero(rows.lengths == rows.lengths.max())[0])
