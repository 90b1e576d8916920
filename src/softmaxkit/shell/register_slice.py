"""Register slices between a shell and its unit, and the interlock for writes, which bypass them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.blocks.queue import connect_by_queue

if TYPE_CHECKING:
    from softmaxkit.shell.shell import Shell

PLACES = 2
"""Places in the queue of a full slice: valid, ready and payload are registered, at one beat per cycle."""


class WritesApart(wiring.Component):
    """Separates writes of constants from rows, including rows in a slice that have not reached the unit yet.

    The rule is that of a unit: a write waits until no row is inside, and no row may begin while a write is offered or a
    group of writes is open.

    Args:
        registers: of the unit.

    Attributes:
        source: stream of writes from the shell.
        sink: stream of writes that may proceed to the unit.
        busy: a row is inside the unit or a slice; no row may enter while `hold` is high.
        hold: no row may begin.
    """

    def __init__(self, registers: RegisterMap) -> None:
        writes = stream.Signature(registers.layout)
        super().__init__({"source": In(writes), "sink": Out(writes), "busy": In(1), "hold": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink, grouped = self.source, self.sink, Signal(name="group_open")
        m.d.comb += [
            sink.payload.eq(source.payload),
            sink.valid.eq(source.valid & ~self.busy),
            source.ready.eq(sink.ready & ~self.busy),
            self.hold.eq(source.valid | grouped),
        ]
        with m.If(source.valid & source.ready):
            m.d.sync += grouped.eq(~source.p.last)
        return m


class InnerStreams:
    """The streams to and from the unit on the shell's side of the register slices.

    Args:
        m: module to add the slices to.
        shell: whose streams they are.

    Attributes:
        scores: stream of scores in front of its slice, if any.
        results: stream of results behind its slice, if any.
        writes: stream of writes of constants; None if the unit has no loadable constants.
        apart: interlock between writes and rows; None if that of the unit suffices.
    """

    def __init__(self, m: Module, shell: Shell) -> None:
        self.scores, self.results = shell.scores, shell.results
        self.writes: Any = None
        self.apart: WritesApart | None = None
        if shell.options.has_slice("scores"):
            self.scores = stream.Signature(shell.scores.payload.shape()).create(path=("scores_before",))
            connect_by_queue(m, "scores_slice", self.scores, shell.scores, PLACES)
        if shell.options.has_slice("results"):
            self.results = stream.Signature(shell.results.payload.shape()).create(path=("results_behind",))
            connect_by_queue(m, "results_slice", shell.results, self.results, PLACES)
        if shell.unit.registers is not None:
            self.writes = wiring.flipped(shell.configuration)
            if shell.options.has_slice("scores"):
                m.submodules.writes_apart = self.apart = WritesApart(shell.unit.registers)
                wiring.connect(m, self.apart.sink, self.writes)
                self.writes = self.apart.source
