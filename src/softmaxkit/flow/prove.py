"""Proofs that a unit keeps the protocol of its streams, whatever comes and whenever it comes.

Beside the unit stands a checker, hardware like the unit, with one output for each property that is high where it is
broken; no arithmetic is checked. Yosys turns the two into an and-inverter graph, and the model checker ABC, which is
part of Yosys, looks for a way to raise the output: first within so many cycles, then by property-directed
reachability, an induction that finds the invariants it needs by itself.

What is assumed: offered scores and writes stay until they are taken, and rows are no longer than the unit's. Registers
and memories hold anything at first; then comes a cycle of reset. So a reset in the midst of traffic is covered too: it
finds the unit in some state, and any was tried. Latches, which take the clock for data, are not modelled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from amaranth.hdl import ClockDomain, ClockSignal, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.stream import beats
from softmaxkit.flow.simulate import WithMemories
from softmaxkit.flow.tools import ToolError, call, need
from softmaxkit.flow.verilog import to_rtlil

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

PLACES = 24
"""Beats that can be inside; a unit that takes more fails, and a small one does not.

They are counted, and a beat's place among them is marked, with a bit for each: solvers find it hard to count in binary.
"""

PROPERTIES = {
    "steady": "an offered result stays as it is until it is taken",
    "counted": f"there are never more results than scores since the reset, nor {PLACES} scores more than results",
    "ordered": "the k-th result ends a row if the k-th score does",
    "masked": "the k-th result is 0 where the k-th score is masked",
    "drained": "with results taken at once, the unit soon gives all of every complete row, and takes what is offered",
}
"""What is proved. A beat that is lost leaves one inside for ever, and so breaks "drained"."""

WITNESSES = {
    "rows": "a second row comes out whole",
    "rest": "a row is taken, and the unit then left alone for as long as it is given to drain",
    "full": "the unit refuses scores because results are not taken",
}
"""What has to be possible: else the assumptions contradict each other, or the number of cycles proves nothing."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about one property.

    Attributes:
        claim: the property, in words.
        outcome: "proved" for ever, "bounded" to a number of cycles, or "fails".
        cycles: after the reset, for which it holds, or the one in which it fails; 0 where it is proved.
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


def prove(
    unit: SoftmaxUnit,
    depth: int,
    busy: int | None = None,
    induction: int = 20,
    patience: int | None = None,
    full: bool = False,
) -> Proof:
    """Prove the properties of a unit, each for ever where an induction is found, else for a number of cycles.

    Args:
        unit: a small one, of storage "flip-flops" or "memory".
        depth: cycles of any traffic. Each costs more time than the one before.
        busy: the same of "drained", which is the dearest; left out, as deep.
        induction: seconds to look for one, for each property; with 0 none is looked for.
        patience: cycles of calm after which the unit has to be drained. Left out: enough for a row of one beat taken
            in every busy cycle.
        full: fill the unit first: scores come in every cycle, and no result is taken, until it refuses; from then on
            every result is taken. With so little choice there is time for all that its buffers hold to pass; the
            verdicts are of such traffic only.

    Raises:
        ValueError: the unit holds something in latches.
        ToolError: Yosys is missing, or failed, or did not come to an end in an hour.
    """
    if unit.storage == "latches":
        raise ValueError('proofs take a unit of storage "flip-flops" or "memory", not "latches"')
    busy = depth if busy is None else busy
    patience = patience or unit.latency(unit.max_row) + busy * unit.interval(1)
    witnesses = [name for name in WITNESSES if full or name != "full"]
    depths = dict.fromkeys([*PROPERTIES, *witnesses], depth) | {"drained": busy, "rest": busy}
    frames = {}
    script = ["strash", "map", "write_blif own.blif"]
    for index, (name, cycles) in enumerate(depths.items()):
        script += ["read_aiger watched.aig", f"cone -a -O {index}", "strash"]
        frames[name] = 1 + cycles + patience * (name in ("drained", "rest"))
        script += [f"bmc3 -F {frames[name]}", f"write_status {name}.bounded"]
        if induction and name in PROPERTIES:
            script += [f"pdr -T {induction}", f"write_status {name}.unbounded"]
    script += ["read_blif own.blif"]  # what Yosys waits for
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "watched.il").write_text(to_rtlil(Watched(unit, patience, full), "watched"), encoding="utf-8")
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
"""Initial values are dropped, as in a netlist, but for the one that says that there has been no reset yet.

ABC is not there as a program of its own: it runs while Yosys maps a module of no meaning.
"""


class Watched(wiring.Component):
    """A unit and its checker.

    Args:
        unit: it.
        patience: cycles in which it has to drain.
        full: fill it first, then take every result.

    Attributes:
        choose: watch the beat of scores that is taken now; which one is anybody's choice.
    """

    def __init__(self, unit: SoftmaxUnit, patience: int, full: bool) -> None:
        self.unit, self.patience, self.fill = unit, patience, full
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
        stuck = refused = scores.valid & ~scores.ready
        if port is not None:
            grouped = Signal()
            writing = port.valid & port.ready
            with m.If(writing):
                m.d.sync += grouped.eq(~port.p.last)
            unlawful = unlawful | _unsteady(m, "configuration", port)
            between = port.valid & (position == 0)
            refused = stuck & ~port.valid & ~grouped
            stuck = (stuck & ~between & ~grouped) | (between & ~port.ready)
        filled = Signal()
        with m.If(refused & ~results.ready):
            m.d.sync += filled.eq(1)
        if self.fill:
            unlawful = unlawful | Mux(filled, ~results.ready, ~scores.valid | results.ready)
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
            "full": filled,
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
        self.ports: dict[str, list[tuple[int, int]]] = {}  # the literal and the place of each bit
        for line in lines:
            symbol, *names = line.split()
            if symbol == "c":
                break
            for name in names:
                if symbol[0] in "io" and not name.startswith("init:"):
                    node = (self.inputs if symbol[0] == "i" else self.outputs)[int(symbol[1:])]
                    port, _, place = name.rstrip("]").partition("[")
                    self.ports.setdefault(port, []).append((node[0], int(place or 0)))

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
            value = [0, 1] * (self.variables + 1)  # of every literal; an odd one is the inverse of the one before
            given = zip(self.inputs, map(int, inputs[start : start + width]), strict=True)
            for (literal, *_), bit in [*given, *zip(self.registers, state, strict=True)]:
                value[literal], value[literal + 1] = bit, 1 - bit
            for literal, first, second in self.gates:
                value[literal] = value[first] & value[second]
                value[literal + 1] = 1 - value[literal]
            state = [value[register[1]] for register in self.registers]
            yield {port: sum(value[at] << place for at, place in bits) for port, bits in self.ports.items()}


class Status(NamedTuple):
    """What ABC wrote of an output: whether it stays low, the cycle and inputs that raise it, and how far ABC looked."""

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
    if graph.outputs[[*PROPERTIES].index(name)] == [0]:  # Yosys saw it; ABC's induction refuses what has no registers
        return Verdict(claim, "proved")
    bounded = _status(work, name, "bounded")
    found = [bounded, _status(work, name, "unbounded")] if (work / f"{name}.unbounded").is_file() else [bounded]
    for status in found:
        if status.raised is not None:
            return Verdict(claim, "fails", status.raised, "\n".join(_trace(graph, status.inputs, name)))
        if status.proved:
            return Verdict(claim, "proved")
    if bounded.frames < frames:
        raise ToolError(f"ABC gave up after {bounded.frames} of {frames} cycles of the property {name}")
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
