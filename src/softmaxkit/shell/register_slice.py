"""Register slices between a shell and its unit, and the interlock for writes, which bypass them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.blocks.queue import Queue

if TYPE_CHECKING:
    from softmaxkit.shell.shell import Shell

PLACES = 2
"""Places in the queue of a full slice: valid, ready and payload are registered, at one beat per cycle."""


def register_slice(m: Module, name: str, source: Any, sink: Any) -> None:
    """Connect two streams with the same payload through a full register slice, which adds one cycle.

    Args:
        m: module to add the logic to.
        name: of the slice.
        source: stream to take beats from.
        sink: stream to drive.
    """
    m.submodules[name] = places = Queue(len(Value.cast(source.payload)), PLACES)
    m.d.comb += [
        places.source.payload.eq(source.payload),
        places.source.valid.eq(source.valid),
        source.ready.eq(places.source.ready),
        Value.cast(sink.payload).eq(places.sink.payload),
        sink.valid.eq(places.sink.valid),
        places.sink.ready.eq(sink.ready),
    ]


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
            register_slice(m, "scores_slice", self.scores, shell.scores)
        if shell.options.has_slice("results"):
            self.results = stream.Signature(shell.results.payload.shape()).create(path=("results_behind",))
            register_slice(m, "results_slice", shell.results, self.results)
        if shell.unit.registers is not None:
            self.writes = wiring.flipped(shell.configuration)
            if shell.options.has_slice("scores"):
                m.submodules.writes_apart = self.apart = WritesApart(shell.unit.registers)
                wiring.connect(m, self.apart.sink, self.writes)
                self.writes = self.apart.source
