"""The checker that is connected to a unit to prove its stream protocol.

It is hardware, like the unit, with one output for each property and each witness. The output of a property goes high
in a cycle that violates the property, that of a witness in a cycle in which the witness occurs. Arithmetic is not
checked.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from amaranth.hdl import ClockDomain, ClockSignal, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.stream import beats
from softmaxkit.flow.simulate import WithMemories

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

PLACES = 24
"""Number of beats inside a unit that the checker can track; a unit that accepts more fails, which no small unit does.

The count is stored in unary and the position of the watched beat one-hot, since solvers find binary counters hard.
"""

PROPERTIES = {
    "steady": "an offered result does not change until it is accepted",
    "counted": f"results never outnumber scores since the reset, and no score is accepted with {PLACES} inside",
    "ordered": "the k-th result ends a row exactly if the k-th score does",
    "masked": "the k-th result is 0 where the k-th score is masked",
    "apart": "no write is accepted from the first score of a row to its last result, and no row begins while one is "
    "offered or a group is open",
    "drained": "if results are accepted at once, all complete rows soon come out, and everything offered is accepted",
    "offered": "if no result is accepted, the first of a complete row is soon offered: valid does not wait for ready",
}
"""The properties to prove. A lost beat stays inside for ever, and so violates "drained"."""

WITNESSES = {
    "rows": "a second row comes out completely",
    "rest": "a row goes in, and then nothing for as long as the unit may take to drain",
    "full": "the unit refuses scores because results are not accepted",
}
"""What must be reachable; otherwise the assumptions contradict each other, or the number of cycles is too small."""


class Watched(wiring.Component):
    """A unit with its checker.

    Args:
        unit: the unit to check.
        patience: idle cycles after which it must have drained.
        full: fill the unit first, then accept every result.
        places: number of beats inside that can be tracked.

    Attributes:
        choose: input that marks the score beat accepted in this cycle as the one to watch. The solver is free to pick
            any, so a property shown for the marked beat holds for all of them.
    """

    def __init__(self, unit: SoftmaxUnit, patience: int, full: bool, places: int = PLACES) -> None:
        self.unit, self.patience, self.fill, self.places = unit, patience, full, places
        self.inner = WithMemories(unit)
        # ABC identifies outputs by number: these come first, in this order.
        ports: dict[str, Any] = {name: Out(1) for name in (*PROPERTIES, *WITNESSES)}
        super().__init__({**ports, **self.inner.signature.members, "clk": In(1), "choose": In(1)})

    def elaborate(self, platform: object) -> Module:
        """Connect the unit to the checker."""
        m = Module()
        m.domains.sync = ClockDomain()
        running = Signal(reset_less=True)
        m.d.sync += running.eq(1)
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(~running)]
        m.submodules.inner = self.inner
        for name in self.inner.signature.members:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.inner, name))
        scores, results, port = self.scores, self.results, getattr(self, "configuration", None)
        taken, delivered = scores.valid & scores.ready, results.valid & results.ready

        most = beats(self.unit.max_row, self.unit.lanes)
        position = Signal(range(most))  # in the row that has begun
        with m.If(taken):
            m.d.sync += position.eq(Mux(scores.p.last, 0, position + 1))
        at_end = position == most - 1
        unlawful = _unsteady(m, "scores", scores) | (scores.valid & at_end & ~scores.p.last)
        if self.unit.whole_rows:
            unlawful = unlawful | (scores.valid & ~at_end & scores.p.last)
        writing: Value = Const(0)
        open_group: Value = Const(0)
        stuck = refused = scores.valid & ~scores.ready
        if port is not None:
            grouped = Signal()
            writing = port.valid & port.ready
            with m.If(writing):
                m.d.sync += grouped.eq(~port.p.last)
            unlawful = unlawful | _unsteady(m, "configuration", port)
            between = port.valid & (position == 0)
            open_group = port.valid | grouped
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

        inside, marker, watched = Signal(self.places), Signal(self.places), Signal.like(Value.cast(scores.payload))
        left = Mux(delivered, inside >> 1, inside)
        turn = marker[0] & results.valid
        m.d.sync += [inside.eq(Mux(taken, (left << 1) | 1, left)), marker.eq(Mux(delivered, marker >> 1, marker))]
        with m.If(taken & self.choose & ~marker.any()):
            m.d.sync += [marker.eq(((left << 1) | 1) & ~left), watched.eq(scores.payload)]
        watched_beat = scores.payload.shape()(watched)
        within = inside[0] | (position != 0)  # between two beats of a row, nothing may be inside
        intruding = (writing & within) | (taken & (position == 0) & open_group)
        shown: list[Value] = [Const(0)]
        if "mask" in watched_beat.shape().members and self.unit.masks == 1:
            shown = [~mask & code.any() for mask, code in zip(watched_beat.mask, results.p.codes, strict=True)]

        calm = Signal(self.patience)  # one bit for each recent cycle
        m.d.sync += calm.eq((calm << 1) | (results.ready & ~taken & ~writing))
        refusing = Signal(self.patience)
        m.d.sync += refusing.eq((refusing << 1) | (~results.ready & ~taken & ~writing))
        rested, complete = calm.all(), inside.bit_select(position, 1)
        began, ended = Signal(), Signal()
        with m.If(taken & scores.p.last):
            m.d.sync += began.eq(1)
        with m.If(delivered & results.p.last):
            m.d.sync += ended.eq(1)
        raised = {
            "steady": _unsteady(m, "results", results),
            "counted": (results.valid & ~inside[0]) | (taken & inside[-1]),
            "ordered": turn & (results.p.last != watched_beat.last),
            "masked": turn & reduce(or_, shown),
            "apart": intruding,
            "drained": rested & (complete | stuck),
            "offered": refusing.all() & complete & ~results.valid,
            "rows": ended & delivered & results.p.last,
            "rest": began & rested,
            "full": filled,
        }
        watching = running & lawful & ~unlawful
        m.d.comb += [getattr(self, name).eq(watching & value) for name, value in raised.items()]
        return m


def _unsteady(m: Module, name: str, port: Any) -> Value:
    """Return whether an offered beat is withdrawn or changed before it is accepted."""
    payload = Value.cast(port.payload)
    waiting, held = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_held", reset_less=True)
    m.d.sync += [waiting.eq(port.valid & ~port.ready), held.eq(payload)]
    return waiting & ~(port.valid & (payload == held))
