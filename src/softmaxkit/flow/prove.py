"""Proofs that a unit keeps the protocol of its streams, whatever comes and whenever it comes.

Beside the unit stands a checker, hardware like the unit, with one output for each property that is high where it is
broken; no arithmetic is checked. Yosys turns the two into an and-inverter graph, and the model checker ABC, which is
part of Yosys, looks for a way to raise the output: first within so many cycles, then by property-directed
reachability, an induction that finds the invariants it needs by itself.

What is assumed: offered scores and writes stay until they are taken, and rows are no longer than the unit's. Registers
and memories start with any contents, and a reset may come at any time; nothing is claimed before the first. Latches,
which take the clock for data, are not modelled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amaranth.hdl import ClockDomain, ClockSignal, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.stream import beats
from softmaxkit.flow.simulate import WithMemories
from softmaxkit.flow.tools import ToolError, call, need
from softmaxkit.flow.verilog import to_rtlil

if TYPE_CHECKING:
    from softmaxkit.methods.unit import SoftmaxUnit

PROPERTIES = {
    "steady": "an offered result stays as it is until it is taken",
    "counted": "there are never more results than scores since the reset",
    "ordered": "the k-th result ends a row if the k-th score does",
    "masked": "the k-th result is 0 where the k-th score is masked",
    "drained": "with results taken at once, the unit soon gives all of every complete row, and takes what is offered",
}
"""What is proved. A beat that is lost leaves one inside for ever, and so breaks "drained"."""

WITNESSES = {
    "rows": "a second row comes out whole",
    "rest": "a row is taken, and the unit then left alone for as long as it is given to drain",
}
"""What has to be possible: else the assumptions contradict each other, or the number of cycles proves nothing."""

PLACES = 24
"""Beats that can be inside; a unit that takes more fails "counted".

They are counted, and a beat's place among them is marked, with a bit for each: solvers find it hard to count in binary.
"""


@dataclass(frozen=True)
class Verdict:
    """What was found out about one property.

    Attributes:
        claim: the property, in words.
        outcome: "proved" for ever, "bounded" to a number of cycles, or "fails".
        cycles: from the first reset on, for which it holds, or after which it fails; 0 where it is proved.
        trace: the shortest way to the failure that was found: the streams, a line a cycle.
    """

    claim: str
    outcome: Literal["proved", "bounded", "fails"]
    cycles: int = 0
    trace: str = ""

    def __str__(self) -> str:
        if self.outcome == "fails":
            return f"fails in cycle {self.cycles}: {self.claim}\n{self.trace}"
        found = "proved by induction" if self.outcome == "proved" else f"holds for {self.cycles} cycles"
        return f"{found}: {self.claim}"


@dataclass(frozen=True)
class Proof:
    """What was found out about a unit.

    Attributes:
        verdicts: of each property, by the names of `PROPERTIES`.
        witnesses: the cycle in which each of `WITNESSES` is first possible; None where it is not within the depth.
    """

    verdicts: dict[str, Verdict]
    witnesses: dict[str, int | None]

    @property
    def holds(self) -> bool:
        """No property fails, and all that should be possible is."""
        possible = None not in self.witnesses.values()
        return possible and all(each.outcome != "fails" for each in self.verdicts.values())

    def __str__(self) -> str:
        lines = [f"{name}: {verdict}" for name, verdict in self.verdicts.items()]
        for name, cycle in self.witnesses.items():
            lines.append(f"{name}: {'not reached' if cycle is None else f'in cycle {cycle}'}: {WITNESSES[name]}")
        return "\n".join(lines)


def prove(unit: SoftmaxUnit, depth: int, induction: int = 20, patience: int | None = None) -> Proof:
    """Prove the properties of a unit, each for ever where an induction is found, else for a number of cycles.

    Args:
        unit: a small one; of storage "flip-flops" or "memory".
        depth: cycles of any traffic; "drained" also looks at the calm after it. The time doubles with every few.
        induction: seconds to look for one, for each property; with 0 none is looked for.
        patience: cycles without stalls in which the unit has to drain. Left out: enough for a row
            taken in each cycle before.

    Raises:
        ValueError: the unit holds something in latches.
        ToolError: Yosys is missing, or failed, or did not come to an end in an hour.
    """
    if unit.storage == "latches":
        raise ValueError('proofs take a unit of storage "flip-flops" or "memory", not "latches"')
    patience = patience or unit.latency(unit.max_row) + depth * unit.interval(1)
    script = ["strash", "map", "write_blif own.blif"]
    for index, name in enumerate([*PROPERTIES, *WITNESSES]):
        cycles = 1 + depth + patience * (name in ("drained", "rest"))  # after that of the reset
        script += ["read_aiger watched.aig", f"cone -a -O {index}", "strash"]
        script += [f"bmc3 -F {cycles}", f"write_status {name}.bounded"]
        if induction and name in PROPERTIES:
            script += [f"pdr -T {induction}", f"write_status {name}.unbounded"]
    script += ["read_blif own.blif"]  # what Yosys waits for
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "watched.il").write_text(to_rtlil(Watched(unit, patience), "watched"), encoding="utf-8")
        (work / "script.ys").write_text(SCRIPT, encoding="utf-8")
        (work / "script.abc").write_text("\n".join([*script, ""]), encoding="utf-8")
        call([need("yosys"), "-q", "-s", "script.ys"], work, "proving", timeout=3600)
        graph = Graph((work / "watched.aag").read_text(encoding="utf-8"))
        verdicts = {name: _verdict(work, graph, name, depth) for name in PROPERTIES}
        possible = {name: _read_status(work / f"{name}.bounded") for name in WITNESSES}
    return Proof(verdicts, {name: cycle if inputs else None for name, (_, cycle, inputs) in possible.items()})


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
"""Initial values are dropped, as in a netlist, but for the one that says that there has been no reset yet.

ABC is not there as a program of its own: it runs while Yosys maps a module of no meaning.
"""


class Watched(wiring.Component):
    """A unit and its checker.

    Args:
        unit: it.
        patience: cycles in which it has to drain.

    Attributes:
        choose: watch the beat of scores that is taken now; which one is anybody's choice.
    """

    def __init__(self, unit: SoftmaxUnit, patience: int) -> None:
        self.unit, self.patience = unit, patience
        self.inner = WithMemories(unit)
        # The outputs to be raised come first and in this order, which is how ABC knows them.
        ports: dict[str, Any] = {name: Out(1) for name in (*PROPERTIES, *WITNESSES)}
        super().__init__({**ports, **self.inner.signature.members, "clk": In(1), "choose": In(1)})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.domains.sync = ClockDomain()
        running = Signal(reset_less=True)
        m.d.sync += running.eq(1)
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(~running)]
        m.submodules.inner = self.inner
        for name in self.inner.signature.members:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.inner, name))
        scores, results, port = self.scores, self.results, getattr(self, "configuration", None)
        taken, given = scores.valid & scores.ready, results.valid & results.ready

        most = beats(self.unit.max_row, self.unit.lanes)
        position = Signal(range(most))  # in the row that has begun
        with m.If(taken):
            m.d.sync += position.eq(Mux(scores.p.last, 0, position + 1))
        unlawful = _unsteady(m, "scores", scores) | (scores.valid & (position == most - 1) & ~scores.p.last)
        writing: Value = Const(0)
        stuck = scores.valid & ~scores.ready
        if port is not None:
            grouped = Signal()
            writing = port.valid & port.ready
            with m.If(writing):
                m.d.sync += grouped.eq(~port.p.last)
            unlawful = unlawful | _unsteady(m, "configuration", port)
            between = port.valid & (position == 0)
            stuck = (stuck & ~between & ~grouped) | (between & ~port.ready)
        lawful = Signal(init=1)
        with m.If(unlawful):
            m.d.sync += lawful.eq(0)

        inside, marker, kept = Signal(PLACES), Signal(PLACES), Signal.like(Value.cast(scores.payload))
        left = Mux(given, inside >> 1, inside)
        turn = marker[0] & results.valid
        m.d.sync += [inside.eq(Mux(taken, (left << 1) | 1, left)), marker.eq(Mux(given, marker >> 1, marker))]
        with m.If(taken & self.choose & ~marker.any()):
            m.d.sync += [marker.eq(((left << 1) | 1) & ~left), kept.eq(scores.payload)]
        kept_beat = scores.payload.shape()(kept)
        shown = [~mask & code.any() for mask, code in zip(kept_beat.mask, results.p.codes, strict=True)]

        calm = Signal(self.patience)  # a bit for each of the cycles before
        m.d.sync += calm.eq((calm << 1) | (results.ready & ~taken & ~writing))
        rested = calm.all()
        began, ended = Signal(), Signal()
        with m.If(taken & scores.p.last):
            m.d.sync += began.eq(1)
        with m.If(given & results.p.last):
            m.d.sync += ended.eq(1)
        raised = {
            "steady": _unsteady(m, "results", results),
            "counted": (results.valid & ~inside[0]) | (taken & inside[-1]),
            "ordered": turn & (results.p.last != kept_beat.last),
            "masked": turn & reduce(or_, shown) if self.unit.masks == 1 else Const(0),
            "drained": rested & (inside.bit_select(position, 1) | stuck),
            "rows": ended & given & results.p.last,
            "rest": began & rested,
        }
        watching = running & lawful & ~unlawful
        m.d.comb += [getattr(self, name).eq(watching & value) for name, value in raised.items()]
        return m


def _unsteady(m: Module, name: str, port: Any) -> Value:
    """Say where an offer is withdrawn or changed before it is taken."""
    payload = Value.cast(port.payload)
    waiting, held = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_held", reset_less=True)
    m.d.sync += [waiting.eq(port.valid & ~port.ready), held.eq(payload)]
    return waiting & ~(port.valid & (payload == held))


class Graph:
    """An and-inverter graph with registers that start at 0, from the text form of AIGER."""

    def __init__(self, text: str) -> None:
        lines = iter(text.splitlines())
        self.variables, *counts = map(int, next(lines).split()[1:6])
        kinds = [[[int(word) for word in next(lines).split()] for _ in range(count)] for count in counts]
        self.inputs, self.registers, self.outputs, self.gates = kinds
        self.names = {}
        for line in lines:
            if line == "c":
                break
            symbol, *names = line.split()
            self.names.update({name: symbol for name in names})

    def run(self, inputs: str) -> Iterator[dict[str, int]]:
        """Yield the values of the ports in each cycle, from the bits of all inputs cycle by cycle.

        Raises:
            ToolError: these are no cycles of this graph.
        """
        width = len(self.inputs)
        if len(inputs) % width:
            raise ToolError(f"ABC gave a counterexample of {len(inputs)} bits for a design of {width} inputs")
        state = [0] * len(self.registers)
        for start in range(0, len(inputs), width):
            value = [0] * (2 * self.variables + 2)

            def put(literal: int, bit: int, value: list[int] = value) -> None:
                value[literal], value[literal ^ 1] = bit, 1 - bit

            put(0, 0)
            for (literal,), bit in zip(self.inputs, inputs[start : start + width], strict=True):
                put(literal, int(bit))
            for register, bit in zip(self.registers, state, strict=True):
                put(register[0], bit)
            for gate, first, second in self.gates:
                put(gate, value[first] & value[second])
            state = [value[register[1]] for register in self.registers]
            ports: dict[str, int] = {}
            for name, symbol in self.names.items():
                if symbol[0] in "io" and not name.startswith("init:"):
                    nodes = self.inputs if symbol[0] == "i" else self.outputs
                    port, _, bit_place = name.rstrip("]").partition("[")
                    bit_value = value[nodes[int(symbol[1:])][0]] << int(bit_place or 0)
                    ports[port] = ports.get(port, 0) | bit_value
            yield ports


def _verdict(work: Path, graph: Graph, name: str, depth: int) -> Verdict:
    claim = PROPERTIES[name]
    if graph.outputs[list(PROPERTIES).index(name)] == [0]:  # Yosys proved it; ABC refuses what has no registers
        return Verdict(claim, "proved")
    bounded = _read_status(work / f"{name}.bounded")
    unbounded = work / f"{name}.unbounded"
    for proved, cycle, inputs in (bounded, *([_read_status(unbounded)] if unbounded.is_file() else [])):
        if inputs:
            return Verdict(claim, "fails", cycle, "\n".join(_trace(graph, inputs, name)))
        if proved:
            return Verdict(claim, "proved")
    return Verdict(claim, "bounded", depth)


def _trace(graph: Graph, inputs: str, name: str) -> Iterator[str]:
    for cycle, ports in enumerate(graph.run(inputs)):
        streams = [
            f"{stream} valid={ports[f'{stream}_valid']} ready={ports[f'{stream}_ready']} "
            f"payload={ports.get(f'{stream}_payload', 0):#x}"
            for stream in ("scores", "results", "configuration")
            if f"{stream}_valid" in ports
        ]
        broken = f"  <- {name}" * ports[name]
        yield f"  cycle {cycle}: {'  '.join(streams)}{broken}"


def _read_status(path: Path) -> tuple[bool, int, str]:
    """Return whether ABC proved that an output stays low, up to which cycle it looked, and the inputs that raise it."""
    if not path.is_file():
        raise ToolError(f"ABC ended before it wrote {path.name}")
    status, _, inputs = path.read_text(encoding="utf-8").splitlines()[:3]
    result, *numbers = status.split()
    if result == "snl_SAT":
        return False, int(numbers[-1]), inputs
    return result == "snl_UNSAT", int(numbers[0]), ""
