"""The unit of powers: subtract, look up, shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed

from powers.spec import Powers, PowersConstants
from softmaxkit.blocks.configuration import Register, RegisterMap, build_registers, hold_between_rows
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import beats
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.unit import SoftmaxUnit


class Unit(SoftmaxUnit):
    """Powers, element-wise: a result leaves a cycle after its score."""

    spec: Powers
    holds_rows = False

    def __init__(
        self,
        spec: Powers,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_storage(storage, but="memory")
        self.cuts = choose_cuts((), depth, default=1)
        self.depth = 1
        registers = RegisterMap([Register("offset", signed(12), 1)]) if constants is None else None
        super().__init__(spec, lanes, constants, max_row, storage, registers)

    @property
    def result_bits(self) -> int:
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        return beats(length, self.lanes) - 1 + self.depth

    def interval(self, length: int) -> int:
        return beats(length, self.lanes)

    def loaded(self, constants: PowersConstants) -> dict[str, int | Sequence[int]]:
        return {"offset": [constants.offset]}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        busy = Signal()
        hold: Any = Const(0)
        offset: Any
        if self.registers is None:
            offset = Const(cast(PowersConstants, self.constants).offset, signed(12))
        else:
            hold, write = hold_between_rows(m, self.scores, self.configuration, busy)
            offset = build_registers(m, self.registers, self.configuration, write, self.storage)[0]["offset"][0]
        pipe = Pipeline(m, "pipe", self.scores.valid & ~hold, self.results, self.cuts)
        m.d.comb += self.scores.ready.eq(pipe.advance & ~hold)
        bits = self.spec.fraction_bits
        outputs = []
        for lane in range(self.lanes):
            difference = Signal(signed(13), name=f"difference{lane}")
            m.d.comb += difference.eq(self.scores.p.codes[lane] - offset)
            clamped = Signal(signed(13), name=f"clamped{lane}")
            m.d.comb += clamped.eq(Mux(difference > 0, 0, difference))
            power = lookup(m, f"power{lane}", self.spec.table.results("nearest"), clamped[:bits])
            distance = Signal(13 - bits, name=f"distance{lane}")
            m.d.comb += distance.eq(-(clamped >> bits))
            amount = saturate(m, f"amount{lane}", distance, 4)
            value = saturate(m, f"value{lane}", shift_right(m, f"shifted{lane}", power, amount), self.result_bits)
            outputs.append(Mux(self.scores.p.mask[lane], value, 0))
        pipe.finish(Cat(*outputs, self.scores.p.last))
        m.d.comb += busy.eq(pipe.busy)
        return m
