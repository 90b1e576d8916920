"""A real unit, modified to violate its stream protocol in one of many ways."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from softmaxkit.blocks.configuration import hold_between_rows
from softmaxkit.methods.base.unit import SoftmaxUnit

LONG = 6
"""Length of a stall, in cycles, after which one of the mutants hangs."""

MUTANTS = {
    "sound": "",
    "waits": "valid is low until ready is high",
    "waits for an edge": "valid is low until ready was high at a clock edge",
    "resets once": "the second reset does nothing",
    "changes": "an offered result changes when it is stalled",
    "withdraws": "an offered result is withdrawn for a cycle when it is stalled",
    "ends early": "a row ends with its first beat",
    "ends late": "a row ends a beat late",
    "endless": "every fourth row has no last",
    "doubles": "a result that was stalled comes twice",
    "drops": "the result after one that was stalled is lost",
    "overruns": "scores are accepted, and lost, when the unit is full",
    "unmasked": "the mask of the first lane is ignored",
    "loads inside": "a write is accepted while a row is inside",
    "loads halfway": "a row begins between the writes of a group",
    "forgets": "every fourth write is accepted and has no effect",
    "remembers": "a result that is waiting at a reset survives it",
    "takes in reset": "scores that are offered during a reset are accepted after it",
    "stuck if empty": "no score is accepted after a fully masked row",
    "stuck if stalled": f"no score is accepted after a stall of {LONG} cycles",
}
"""Descriptions of the mutants by name."""


class Mutant(wiring.Component):
    """A unit with a fault between it and its ports.

    Args:
        unit: a correct unit with loadable constants.
        mutant: one of `MUTANTS`; if empty, the port `mutant` selects one by number.
    """

    def __init__(self, unit: SoftmaxUnit, mutant: str = "") -> None:
        self.unit, self.fixed = unit, mutant
        super().__init__(dict(unit.signature.members) | ({} if mutant else {"mutant": In(8)}))

    def __getattr__(self, name: str) -> Any:
        if name in ("unit", "fixed") or name.startswith("__") or name in self.unit.signature.members:
            raise AttributeError(name)
        return getattr(self.unit, name)

    def parts(self) -> list[Any]:
        return []  # the parts of the unit do not take part in the protocol

    def elaborate(self, platform: object) -> Module:
        m = Module()
        used = Signal(reset_less=True)
        m.domains.inner = ClockDomain()
        m.d.comb += [
            ClockSignal("inner").eq(ClockSignal()),
            ResetSignal("inner").eq(ResetSignal() & ~(self.on("resets once") & used)),
        ]
        with m.If(ResetSignal()):
            m.d.sync += used.eq(1)
        m.submodules.unit = DomainRenamer("inner")(self.unit)
        self.break_scores(m)
        self.break_results(m)
        self.break_configuration(m)
        return m

    def on(self, name: str) -> Value:
        """Return whether this mutant is selected."""
        if self.fixed:
            return Const(int(name == self.fixed))
        return self.mutant == list(MUTANTS).index(name)

    def break_scores(self, m: Module) -> None:
        outer, inner = self.scores, self.unit.scores
        stuck, empty, stalled = Signal(), Signal(init=1), Signal(range(LONG + 1))
        kept, kept_valid = Signal.like(Value.cast(outer.payload), reset_less=True), Signal(reset_less=True)
        m.d.comb += [
            inner.valid.eq(outer.valid & ~stuck),
            inner.payload.eq(outer.payload),
            outer.ready.eq((inner.ready | self.on("overruns")) & ~stuck),
        ]
        with m.If(self.on("unmasked")):
            m.d.comb += inner.p.mask[0].eq(1)
        with m.If(outer.valid & outer.ready):
            m.d.sync += empty.eq(outer.p.last | (empty & (outer.p.mask == 0)))
            with m.If(outer.p.last & empty & (outer.p.mask == 0) & self.on("stuck if empty")):
                m.d.sync += stuck.eq(1)
        waits = self.results.valid & ~self.results.ready
        m.d.sync += stalled.eq(Mux(waits, Mux(stalled == LONG, LONG, stalled + 1), 0))
        with m.If((stalled == LONG) & self.on("stuck if stalled")):
            m.d.sync += stuck.eq(1)
        with m.If(self.on("takes in reset")):
            with m.If(ResetSignal()):
                m.d.sync += [kept_valid.eq(outer.valid), kept.eq(outer.payload)]
            with m.Elif(inner.ready):
                m.d.sync += kept_valid.eq(0)
            with m.If(kept_valid):
                m.d.comb += [inner.valid.eq(1), inner.payload.eq(kept), outer.ready.eq(0)]

    def break_results(self, m: Module) -> None:
        outer, inner = self.results, self.unit.results
        passed, waited = outer.valid & outer.ready, Signal()
        m.d.sync += waited.eq(outer.valid & ~outer.ready)
        m.d.comb += [
            outer.valid.eq(inner.valid),
            outer.payload.eq(inner.payload),
            inner.ready.eq(outer.ready),
        ]
        with m.If(self.on("waits")):
            m.d.comb += outer.valid.eq(inner.valid & outer.ready)
        granted = Signal()
        with m.If(self.on("waits for an edge")):
            m.d.comb += [outer.valid.eq(inner.valid & granted), inner.ready.eq(outer.ready & granted)]
            m.d.sync += granted.eq(inner.valid & (granted | outer.ready) & ~passed)
        with m.If(self.on("changes") & waited):
            m.d.comb += outer.p.codes[0].eq(~inner.p.codes[0])
        withdrawn = Signal()
        with m.If(self.on("withdraws")):
            m.d.sync += withdrawn.eq(outer.valid & ~outer.ready)
            with m.If(withdrawn):
                m.d.comb += [outer.valid.eq(0), inner.ready.eq(0)]
        self.break_last(m, passed)
        again = Signal()
        with m.If(self.on("doubles")):
            with m.If(passed):
                m.d.sync += again.eq(waited & ~again)
            m.d.comb += inner.ready.eq(outer.ready & (~waited | again))
        dropping = Signal()
        with m.If(self.on("drops")):
            with m.If(passed & waited):
                m.d.sync += dropping.eq(1)
            with m.If(dropping):
                m.d.comb += [outer.valid.eq(0), inner.ready.eq(1)]
                with m.If(inner.valid):
                    m.d.sync += dropping.eq(0)
        kept, kept_valid = Signal.like(Value.cast(outer.payload), reset_less=True), Signal(reset_less=True)
        with m.If(self.on("remembers")):
            with m.If(ResetSignal()):
                m.d.sync += [kept_valid.eq(outer.valid & ~outer.ready), kept.eq(outer.payload)]
            with m.Elif(outer.ready):
                m.d.sync += kept_valid.eq(0)
            with m.If(kept_valid):
                m.d.comb += [outer.valid.eq(1), outer.payload.eq(kept), inner.ready.eq(0)]

    def break_last(self, m: Module, passed: Value) -> None:
        """Move the ends of rows."""
        outer, inner = self.results, self.unit.results
        late, rows = Signal(), Signal(2)
        with m.If(passed):
            m.d.sync += [late.eq(inner.p.last), rows.eq(rows + inner.p.last)]
        with m.If(self.on("ends late")):
            m.d.comb += outer.p.last.eq(late)
        with m.If(self.on("endless") & (rows == 3)):
            m.d.comb += outer.p.last.eq(0)
        position = Signal(16)
        with m.If(passed):
            m.d.sync += position.eq(Mux(inner.p.last, 0, position + 1))
        with m.If(self.on("ends early") & (position == 0) & ~inner.p.last):
            m.d.comb += outer.p.last.eq(1)

    def break_configuration(self, m: Module) -> None:
        outer, inner = self.configuration, self.unit.configuration
        count = Signal(2)
        m.d.comb += [inner.valid.eq(outer.valid), inner.payload.eq(outer.payload), outer.ready.eq(inner.ready)]
        with m.If(outer.valid & outer.ready):
            m.d.sync += count.eq(count + 1)
        register, register_valid = Signal.like(Value.cast(outer.payload)), Signal()
        with m.If(self.on("loads inside")):
            m.d.comb += [
                inner.valid.eq(register_valid),
                inner.payload.eq(register),
                outer.ready.eq(~register_valid | inner.ready),
            ]
            with m.If(outer.ready):
                m.d.sync += [register_valid.eq(outer.valid), register.eq(outer.payload)]
        with m.If(self.on("loads halfway")):
            m.d.comb += inner.p.last.eq(1)
        with m.If(self.on("forgets") & (count == 3)):
            m.d.comb += [inner.valid.eq(0), outer.ready.eq(1)]


def load_between_beats(m: Module, scores: Any, port: Any, busy: Value) -> tuple[Value, Value]:
    """Do what `hold_between_rows` does, but accept writes in the middle of a row as soon as no beat is inside."""
    hold, write = hold_between_rows(m, scores, port, busy)
    m.d.comb += port.ready.eq(~busy & ~(scores.valid & scores.ready))
    return hold, write
