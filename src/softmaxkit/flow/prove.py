"""Formal proofs that a unit keeps its stream protocol under any input and any timing.

Yosys turns the unit and its checker (`softmaxkit.flow.checker`) into an and-inverter graph. The model checker ABC,
which is part of Yosys, then tries to raise each output of the checker: first within a bounded number of cycles, then
by property-directed reachability, which finds the invariants of an inductive proof automatically.

Assumptions: offered scores and writes do not change until they are accepted, and no row is longer than the unit allows.
Registers and memories start with any contents, followed by one cycle of reset, so a reset in the middle of traffic is
covered as well. Latches are not modelled, since they use the clock as data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from softmaxkit.flow.aiger import Graph
from softmaxkit.flow.checker import PLACES, PROPERTIES, WITNESSES, Watched
from softmaxkit.flow.tools import ToolError, call, need
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.methods.base.spec import check_unit

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit


PATIENT = ("drained", "offered", "rest")
"""Properties and witnesses that are observed only after a number of idle cycles."""


@dataclass(frozen=True)
class Verdict:
    """Result for one property.

    Attributes:
        claim: the property, in words.
        outcome: "proved" for all time, "bounded" (holds for a number of cycles), or "fails".
        cycles: cycles after the reset for which it holds, or the cycle in which it fails; 0 if it is proved.
        trace: the shortest counterexample that was found: the streams, one line per cycle.
    """

    claim: str
    outcome: Literal["proved", "bounded", "fails"]
    cycles: int = 0
    trace: str = ""

    def __str__(self) -> str:
        if self.outcome == "fails":
            return f"fails in cycle {self.cycles}: {self.claim}\n{self.trace}"
        extent = "proved by induction" if self.outcome == "proved" else f"holds for {self.cycles} cycles"
        return f"{extent}: {self.claim}"


@dataclass(frozen=True)
class Proof:
    """Result for a unit.

    Attributes:
        verdicts: results of the properties, by their names in `PROPERTIES`.
        witnesses: the first cycle in which each of `WITNESSES` can occur; None if it cannot within the depth.
    """

    verdicts: dict[str, Verdict]
    witnesses: dict[str, int | None]

    @property
    def holds(self) -> bool:
        """Whether no property fails and every witness is reachable."""
        possible = None not in self.witnesses.values()
        return possible and all(verdict.outcome != "fails" for verdict in self.verdicts.values())

    def __str__(self) -> str:
        lines = [f"{name}: {verdict}" for name, verdict in self.verdicts.items()]
        for name, cycle in self.witnesses.items():
            lines.append(f"{name}: {'not reached' if cycle is None else f'in cycle {cycle}'}: {WITNESSES[name]}")
        return "\n".join(lines)


def prove(
    unit: SoftmaxUnit,
    depth: int,
    busy: int | None = None,
    induction: int = 20,
    patience: int | None = None,
    full: bool = False,
) -> Proof:
    """Prove the properties of a unit: for all time if an inductive proof is found, otherwise for a number of cycles.

    Args:
        unit: a small unit, with storage "flip-flops" or "memory".
        depth: cycles of arbitrary traffic. Each takes longer to search than the one before.
        busy: the same for "drained" and "offered", the most expensive properties; default: `depth`.
        induction: seconds to search for an inductive proof, per property; 0 to skip it.
        patience: idle cycles after which the unit must have drained, or must offer a result; default: enough for a
            row of one beat accepted in every busy cycle.
        full: fill the unit first: scores come in every cycle and no result is accepted until the unit stalls; from
            then on every result is accepted. With so little freedom the search gets far enough for the full buffers to
            drain, but the verdicts hold for such traffic only.

    Raises:
        ValueError: the unit uses latches.
        TypeError: the unit is not one, but a spec for instance.
        ToolError: Yosys is missing, failed, or took more than an hour.
    """
    check_unit(unit)
    if unit.storage == "latches":
        raise ValueError('a proof requires a unit with storage "flip-flops" or "memory", got "latches"')
    busy = depth if busy is None else busy
    patience = patience or unit.latency(unit.max_row) + busy * unit.interval(1)
    witnesses = [name for name in WITNESSES if full or name != "full"]
    depths = dict.fromkeys([*PROPERTIES, *witnesses], depth) | dict.fromkeys(PATIENT, busy)
    frames = {}
    script = ["strash", "map", "write_blif own.blif"]
    for index, (name, cycles) in enumerate(depths.items()):
        script += ["read_aiger watched.aig", f"cone -a -O {index}", "strash"]
        frames[name] = 1 + cycles + patience * (name in PATIENT)
        script += [f"bmc3 -F {frames[name]}", f"write_status {name}.bounded"]
        if induction and name in PROPERTIES:
            script += [f"pdr -T {induction}", f"write_status {name}.unbounded"]
    script += ["read_blif own.blif"]  # Yosys expects its own module back
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "watched.il").write_text(to_rtlil(Watched(unit, patience, full, PLACES), "watched"), encoding="utf-8")
        (work / "script.ys").write_text(SCRIPT, encoding="utf-8")
        (work / "script.abc").write_text("\n".join([*script, ""]), encoding="utf-8")
        call([need("yosys"), "-q", "-s", "script.ys"], work, "proving", timeout=3600)
        graph = Graph((work / "watched.aag").read_text(encoding="utf-8"))
        return Proof(
            {name: _verdict(work, graph, name, depths[name], frames[name]) for name in PROPERTIES},
            {name: _status(work, name, "bounded").raised for name in witnesses},
        )


SCRIPT = """
read_rtlil watched.il
hierarchy -top watched
proc
delete t:$print t:$check t:$meminit*
flatten
memory
opt -full
setattr -unset init w:* w:running %d
opt
techmap
opt
dffunmap
simplemap
aigmap
opt_clean
write_aiger -zinit watched.aig
write_aiger -zinit -ascii -symbols watched.aag
design -reset
read_rtlil << EOF
module \\any
  wire input 1 \\a
  wire output 2 \\y
  cell $_NOT_ \\not
    connect \\A \\a
    connect \\Y \\y
  end
end
EOF
abc -g AND -script script.abc
"""
"""Initial values are dropped, as in a netlist, except that of `running`, which marks the reset cycle.

PyPI's Yosys has no separate ABC program, so ABC runs its script while Yosys maps a dummy module.
"""


class Status(NamedTuple):
    """ABC's status of an output of the checker.

    Attributes:
        proved: whether it stays low for all time.
        raised: the cycle in which it goes high; None if no counterexample was found.
        inputs: the input bits of the counterexample.
        frames: number of cycles that were searched.
    """

    proved: bool
    raised: int | None
    inputs: str
    frames: int


def _status(work: Path, name: str, kind: str) -> Status:
    path = work / f"{name}.{kind}"
    if not path.is_file():
        raise ToolError(f"ABC ended before it wrote {path.name}")
    status, _, inputs = path.read_text(encoding="utf-8").splitlines()[:3]
    result, *numbers = status.split()
    if result == "snl_SAT":
        return Status(False, int(numbers[-1]), inputs, 0)
    return Status(result == "snl_UNSAT", None, "", int(numbers[0]) + 1)


def _verdict(work: Path, graph: Graph, name: str, depth: int, frames: int) -> Verdict:
    claim = PROPERTIES[name]
    if graph.outputs[[*PROPERTIES].index(name)] == [0]:  # a constant: ABC's pdr rejects logic without registers
        return Verdict(claim, "proved")
    bounded = _status(work, name, "bounded")
    statuses = [bounded]
    if (work / f"{name}.unbounded").is_file():
        statuses.append(_status(work, name, "unbounded"))
    for status in statuses:
        if status.raised is not None:
            return Verdict(claim, "fails", status.raised, "\n".join(_trace(graph, status.inputs, name)))
        if status.proved:
            return Verdict(claim, "proved")
    if bounded.frames < frames:
        raise ToolError(f"ABC gave up on the property {name} after {bounded.frames} of {frames} cycles")
    return Verdict(claim, "bounded", depth)


def _trace(graph: Graph, inputs: str, name: str) -> Iterator[str]:
    for cycle, ports in enumerate(graph.run(inputs)):
        streams = [
            f"{stream}: valid={ports[f'{stream}_valid']} ready={ports[f'{stream}_ready']} "
            f"payload={ports[f'{stream}_payload']:#x}"
            for stream in ("scores", "results", "configuration")
            if f"{stream}_valid" in ports
        ]
        yield f"  {cycle or 'reset':>5}  {'   '.join(streams)}{f'   <- {name}' * ports[name]}"
