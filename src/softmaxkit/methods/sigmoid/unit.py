"""The unit of sigmoid attention: a look-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned

from softmaxkit.blocks.configuration import (
    Register,
    RegisterMap,
    Words,
    build_registers,
    hold_between_rows,
    number_of_set,
    words_of,
)
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, resized
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import beats
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.sigmoid.spec import Sigmoid, SigmoidConstants


class Unit(SoftmaxUnit):
    """Sigmoid attention, element-wise: each result leaves one cycle after its score.

    Args:
        spec: the spec.
        lanes: scores per beat.
        constants: constants of one head, to bake in; None for a loadable table.
        max_row: has no effect; rows can have any length.
        depth: registers from score to result; always 1.
        storage: storage of a loadable table, "flip-flops" or "latches".
        sets: number of sets of loadable constants.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built.
    """

    spec: Sigmoid
    holds_rows = False
    takes_sets = True

    def __init__(
        self,
        spec: Sigmoid,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
        sets: int = 1,
    ) -> None:
        check_storage(storage, but="memory")
        self.cuts = choose_cuts((), depth, default=1)
        self.depth = 1
        table = Register("table", unsigned(spec.output.bits), 1 << spec.score_bits, "result of each score code")
        registers = RegisterMap([table], sets) if constants is None else None
        super().__init__(spec, lanes, constants, max_row, storage, registers)

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        return beats(length, self.lanes) - 1 + self.depth

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: always one beat per cycle."""
        return beats(length, self.lanes)

    def loaded(self, constants: SigmoidConstants) -> dict[str, int | Sequence[int]]:
        """Return the register values for some constants."""
        return {"table": constants.table}

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        busy, hold, scores = Signal(), cast(Any, Const(0)), self.scores
        if self.registers is None:
            sets: list[Words] = [{"table": cast(SigmoidConstants, self.constants).table}]
        else:
            hold, write = hold_between_rows(m, scores, self.configuration, busy)
            sets = build_registers(m, self.registers, self.configuration, write, self.storage)
        table = words_of(m, "own", sets, number_of_set(scores), "table")["table"]
        pipe = Pipeline(m, "stage", scores.valid & ~hold, self.results, self.cuts)
        m.d.comb += scores.ready.eq(pipe.advance & ~hold)
        entries = [lookup(m, f"entry{i}", table, scores.p.codes[i].as_unsigned()) for i in range(self.lanes)]
        results = [Mux(scores.p.mask[i], resized(entry, self.result_bits), 0) for i, entry in enumerate(entries)]
        pipe.finish(Cat(*results, scores.p.last))
        m.d.comb += busy.eq(pipe.busy)
        return m
