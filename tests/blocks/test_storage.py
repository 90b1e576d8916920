from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Array, Cat, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bench import agree, packed, split, verilator

from softmaxkit.blocks.pipeline import Pipeline
from softmaxkit.blocks.storage import Words, check_storage
from softmaxkit.flow.simulate import Verilated

WIDTH, ADDRESS, DEPTHS = 5, 3, (1, 2, 5, 8)
INPUTS = (1, ADDRESS, WIDTH, ADDRESS)
"""Widths of enable, address, data, and the address that is read in the next cycle."""


class Written(wiring.Component):
    """Words in both storages, written when a beat arrives and read one cycle later."""

    def __init__(self) -> None:
        self.words = [Words(WIDTH, depth, storage) for depth in DEPTHS for storage in ("flip-flops", "latches")]
        results = stream.Signature(WIDTH * len(self.words))
        super().__init__({"scores": In(stream.Signature(sum(INPUTS))), "results": Out(results)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enable, address, data, read = split(self.scores.payload, INPUTS)
        pipe = Pipeline(m, "stage", self.scores.valid, self.results, ("written",))
        m.d.comb += self.scores.ready.eq(pipe.advance)
        for at, words in enumerate(self.words):
            m.submodules[f"words_{at}"] = words
            m.d.comb += [words.enable.eq(enable & pipe.fire), words.address.eq(address), words.data.eq(data)]
        read = pipe.cut("written", read)
        pipe.finish(Cat(Array(held.words)[read[: len(held.address)]] for held in self.words))
        return m


@verilator
def test_words_can_be_read_in_the_cycle_after_their_write() -> None:
    rng = np.random.default_rng(0)
    count = 2000
    enable, data = rng.integers(0, 2, count), rng.integers(0, 1 << WIDTH, count)
    address, read = rng.integers(0, 1 << ADDRESS, (2, count))
    read = np.where(rng.random(count) < 0.5, address, read)
    enable[:8], address[:8], read[:8] = 1, np.arange(8), 0  # nothing is read that was not written
    outputs = []
    for depth in DEPTHS:
        mask = (1 << max((depth - 1).bit_length(), 1)) - 1
        words, seen = [0] * depth, []
        for write, to, word, at in zip(enable, address & mask, data, read & mask, strict=True):
            if write and to < depth:
                words[to] = word
            seen.append(words[at] if at < depth else 0)
        outputs += [(np.asarray(seen), WIDTH)] * 2
    expected = packed(list(zip((enable, address, data, read), INPUTS, strict=True)), outputs)
    agree(Verilated(Written(), fast=False), expected, [WIDTH] * len(outputs))


def test_choices() -> None:
    with pytest.raises(ValueError, match="storage is 'flip-flops' or 'latches' or 'memory' for this unit, not 'sram'"):
        check_storage("sram")
    with pytest.raises(ValueError, match="storage is 'flip-flops' or 'latches' for this unit, not 'memory'"):
        check_storage("memory", but="memory")
