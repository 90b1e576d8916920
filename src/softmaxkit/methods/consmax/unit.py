"""The ConSmax unit: each score passes tables, multipliers and one conversion to fixed point, independently."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from softmaxkit.blocks.configuration import Words, build_registers, hold_between_rows, number_of_set, words_of
from softmaxkit.blocks.float_multiplier import Number
from softmaxkit.blocks.parts import Part, multiplier_part
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named, resized
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import beats
from softmaxkit.formats import Array, Float
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.consmax import datapath
from softmaxkit.methods.consmax.constants import ConSmaxConstants
from softmaxkit.methods.consmax.multiplications import multiplications
from softmaxkit.methods.consmax.spec import ConSmax


class Halves(NamedTuple):
    """Constants of the two halves of an INT16 unit that work apart; both belong to the spec at 8 bits."""

    upper: ConSmaxConstants
    lower: ConSmaxConstants


class Unit(SoftmaxUnit):
    """ConSmax, element-wise: each result leaves `depth` cycles after its score, independent of the row.

    A 16-bit unit consists of two INT8 units and the reduction multiplier. When its halves work apart, as selected by a
    register, each lane accepts two INT8 scores and returns two results, each with its own constants; the reduction
    multiplier then multiplies by the lower half's C, if C is not folded.

    Args:
        spec: the spec.
        lanes: scores per beat.
        constants: constants of one head, to bake in; None for loadable tables.
        max_row: has no effect; rows can have any length.
        depth: registers from score to result; the default is one after each multiplier, and one at the output.
        storage: storage of loadable tables, "flip-flops" or "latches".
        apart: whether the two halves of an INT16 unit can work apart.
        sets: number of sets of loadable constants.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built, or `apart` is set for a unit that is not a loadable 16-bit unit with one
            set.
    """

    spec: ConSmax
    holds_rows = False
    takes_sets = True

    def __init__(
        self,
        spec: ConSmax,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
        apart: bool = False,
        sets: int = 1,
    ) -> None:
        check_storage(storage, but="memory")
        if apart and (spec.bits != 16 or constants is not None):
            raise ValueError("apart=True requires a spec with bits=16 and loadable constants (constants=None)")
        if apart and sets != 1:
            raise ValueError(f"with apart=True, sets must be 1, got {sets}; leave apart or sets out")
        multipliers = ["product"] if spec.tables == "split" else []
        multipliers += ["reduction"] if spec.bits == 16 else []
        multipliers += ["constant"] if spec.constant == "multiplied" else []
        cuts = [] if spec.tables == "whole" else [*multipliers, "rounded", "tables"]
        self.cuts = choose_cuts(cuts, depth, default=1 + len(multipliers))
        self.depth, self.apart = 1 + len(self.cuts), apart
        registers = datapath.register_map(spec, apart, sets) if constants is None else None
        super().__init__(spec, lanes, constants, max_row, storage, registers, masks=2 if apart else 1)

    @classmethod
    def verified_forms(
        cls, spec: ConSmax, constants: Sequence[Constants], **sizes: Any
    ) -> Iterator[tuple[str, SoftmaxUnit, Sequence[Any]]]:
        """Yield the units of `SoftmaxUnit.verified_forms`, and for 16 bits also the unit with its halves apart."""
        yield from super().verified_forms(spec, constants, **sizes)
        if spec.bits == 16 and sizes.get("sets", 1) == 1:
            unit = cls(spec, constants=None, apart=True, **sizes)
            examples: Any = unit.half.examples()
            yield "halves apart", unit, [*constants[:1], Halves(*examples[:2]), Halves(*examples[1:])]

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        number = self.spec.table_format
        if self.spec.tables != "split" or not isinstance(number, Float):
            return []
        return [multiplier_part(number, self.spec.significant_bits)]

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.output_bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        return beats(length, self.lanes) - 1 + self.depth

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: always one beat per cycle."""
        return beats(length, self.lanes)

    def loaded(self, constants: ConSmaxConstants) -> dict[str, int | Sequence[int]]:
        """Return the register values; the two halves of a 16-bit unit work together."""
        lower = {"apart": 0, "lower_multiplier": 0, "lower_offset": 0, "lower_limit": 0}
        return lower | datapath.loaded(self.spec, constants, self.spec)

    @property
    def half(self) -> ConSmax:
        """The spec of one half of an INT16 unit."""
        return dataclasses.replace(self.spec, bits=8)

    def writes(self, constants: Constants | Sets | Halves) -> list[tuple[int, int]]:
        """Return the writes that load constants; loading `Halves` makes the two halves work apart.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the constants are baked in, the halves cannot work apart, or a value does not fit its register.
        """
        if not isinstance(constants, Halves):
            return super().writes(constants)
        if self.registers is None or not self.apart:
            raise ValueError("the halves of this unit cannot work apart; build it with apart=True")
        upper, lower = (datapath.loaded(self.half, half_constants, self.spec) for half_constants in constants)
        return self.registers.writes({**upper, **{f"lower_{name}": word for name, word in lower.items()}, "apart": 1})

    def positions_a_lane(self, constants: Constants | Halves) -> int:
        """Return 2 if the halves work apart, where even positions belong to the lower half; otherwise 1."""
        return 2 if isinstance(constants, Halves) else 1

    def golden(
        self, codes: Array, mask: Array | None, constants: Constants | Sets | Halves, sets: Array | None = None
    ) -> Array:
        """Compute the expected results; with `Halves`, the codes have 8 bits."""
        if not isinstance(constants, Halves):
            return super().golden(codes, mask, constants, sets)
        upper, lower = (self.half.golden(codes, mask, half_constants) for half_constants in constants)
        even = np.arange(codes.shape[-1]) % 2 == 0
        return np.where(even, lower, upper)

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        hold: Value = Const(0)
        busy = Signal()
        if self.registers is None:
            sets = [datapath.baked(self.spec, cast(ConSmaxConstants, self.constants))]
        else:
            hold, write = hold_between_rows(m, self.scores, self.configuration, busy)
            sets = build_registers(m, self.registers, self.configuration, write, self.storage)
        pipe = Pipeline(m, "stage", self.scores.valid & ~hold, self.results, self.cuts)
        m.d.comb += self.scores.ready.eq(pipe.advance & ~hold)
        pipe.finish(Cat(*self._results(m, pipe, sets)))
        m.d.comb += busy.eq(pipe.busy)
        return m

    def _results(self, m: Module, pipe: Pipeline, sets: Sequence[Words]) -> list[Value]:
        """Build the datapath from scores to results; return the results and `last`.

        The index of a row's set travels with its beats, and each stage uses the set of the beat that it processes.
        """
        scores, last, own = self.scores.p, self.scores.p.last, number_of_set(self.scores)
        tables = datapath.table_names(self.spec)
        names = [f"lane{lane}" for lane in range(self.lanes)]
        if self.spec.tables == "whole":
            words = words_of(m, "own", sets, own, *tables)
            entries = [
                lookup(m, f"{name}_entry", words["high"], scores.codes[lane].as_unsigned())
                for lane, name in enumerate(names)
            ]
            # The lookup of small entries may be narrower than a result.
            results = [resized(entry, self.result_bits) for entry in entries]
            return [*(Mux(scores.mask[lane], result, 0) for lane, result in enumerate(results)), last]
        words = words_of(m, "entries", sets, own, *tables, "offset")
        lanes = [self._entries(m, name, words, lane) for lane, name in enumerate(names)]
        lanes, last, own = pipe.cut("tables", (lanes, last, own))
        apart = sets[0]["apart"][0] if self.apart else None  # halves that work apart have a single set
        for cut, before, after in multiplications(m, self.spec, apart):
            words = words_of(m, cut, sets, own, *["multiplier"] * (cut == "constant"))
            lanes = [before(f"{name}_{cut}", numbers, words) for name, numbers in zip(names, lanes, strict=True)]
            lanes, last, own = pipe.cut(cut, (lanes, last, own))
            lanes = [after(f"{name}_{cut}", numbers) for name, numbers in zip(names, lanes, strict=True)]
        lanes, last, own = pipe.cut("rounded", (lanes, last, own))
        words, base = words_of(m, "output", sets, own, "limit"), datapath.base(self.spec, sets[0])
        outputs = [
            output
            for name, numbers in zip(names, lanes, strict=True)
            for output in self._outputs(m, name, words, numbers, base)
        ]
        return [*outputs, last]

    def _entries(self, m: Module, name: str, words: Words, lane: int) -> list[Number]:
        """Look up a score in each table; masked scores become 0."""
        code = self.scores.p.codes[lane].as_unsigned()
        mask = self.scores.p.mask[self.masks * lane : self.masks * (lane + 1)]
        tables = datapath.table_names(self.spec)
        nibbles = [code[4 * place : 4 * place + 4] for place in reversed(range(self.spec.bits // 4))]
        numbers = []
        for table, nibble in zip(tables, nibbles[-len(tables) :], strict=True):
            first = table == tables[0] or (self.apart and table == "lower_high")
            offset = words["lower_offset" if table == "lower_high" else "offset"][0] if first else 0
            numbers.append(datapath.number(m, f"{name}_{table}", self.spec, words[table], nibble, offset))
        if self.spec.tables == "shift":
            # 7 - h of the signed high nibble h.
            upward = Cat(~code[4:7], code[7])
            numbers[0] = numbers[0]._replace(shift=named(m, f"{name}_shift", numbers[0].shift + upward))
        masked = [~mask[0], ~mask[0]]
        if self.apart:
            masked[0] = Mux(words["apart"][0], ~mask[1], ~mask[0])
        for index, is_masked in zip((0, 2), masked, strict=True):
            if index < len(numbers):
                numbers[index] = numbers[index]._replace(zero=numbers[index].zero | is_masked)
        return numbers

    def _outputs(self, m: Module, name: str, words: Words, numbers: list[Number], base: int) -> list[Value]:
        """Convert the products of a lane to its results."""
        main = datapath.to_output(m, f"{name}_output", self.spec, numbers[0], words["limit"][0], base)
        if not self.apart:
            return [main]
        apart, limit = words["apart"][0], words["lower_limit"][0]
        lower = datapath.to_output(m, f"{name}_lower_output", self.spec, numbers[1], limit, base)
        return [Mux(apart, lower, main), Mux(apart, main, 0)]
