"""AXI's register slice between a shell and its unit, and writes that go round it."""

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
"""Of a full slice: valid, ready and payload are registers, and a beat passes every cycle."""


def register_slice(m: Module, name: str, source: Any, sink: Any) -> None:
    """Join two streams of one payload by a full register slice, which a beat passes in a cycle.

    Args:
        m: module to add the logic to.
        name: of the slice.
        source: stream in, to take from.
        sink: stream out, to drive.
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
    """Keeps writes of constants and rows apart where a slice has taken rows that the unit does not know of yet.

    As in a unit: a write waits until no row is inside, and while one is offered, or a group is open, no row may begin.

    Args:
        registers: of the unit.

    Attributes:
        source: writes.
        sink: those that the unit may take.
        busy: a row is inside the unit or a slice; it stays low while `hold` is high.
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
    """The streams to the unit as the other parts of a shell see them, with their slices.

    Args:
        m: the module to build the slices in.
        shell: of the unit.

    Attributes:
        scores: before the slice.
        results: behind the slice.
        writes: of constants; None where the unit takes none.
        apart: keeps these apart from rows; None where the unit does by itself.
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
