from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Array, Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from bench import agree, clocked, joined, verilator

from softmaxkit.blocks.configuration import Register, RegisterMap, build_registers, hold_between_rows
from softmaxkit.blocks.pipeline import Pipeline
from softmaxkit.flow.simulate import Verilated
from softmaxkit.flow.vectors import Stream

ENTRIES, BITS = 5, 8
REGISTERS = RegisterMap(
    [Register("bias", signed(6)), Register("table", signed(4), ENTRIES), Register("scale", unsigned(3))]
)
Constants = dict[str, Any]


def constants(rng: random.Random) -> Constants:
    table = [rng.randrange(-8, 8) for _ in range(ENTRIES)]
    return {"bias": rng.randrange(-32, 32), "table": table, "scale": rng.randrange(8)}


def result(code: int, loaded: Constants) -> int:
    return (loaded["table"][code] * loaded["scale"] + loaded["bias"]) % (1 << BITS)


class Loaded(wiring.Component):
    """Looks scores up in a table, scales them one cycle later, and then adds a bias; once for each storage.

    Args:
        storages: of the table.
        mutant: "busy" (writes do not wait until the unit is empty), "row" (nor until a row has ended), or "group"
            (rows may begin between the writes of a group).
    """

    def __init__(self, storages: tuple[str, ...], mutant: str = "") -> None:
        self.storages, self.mutant = storages, mutant
        ports = {
            "scores": In(stream.Signature(data.StructLayout({"code": 3, "last": 1}))),
            "results": Out(stream.Signature(BITS * len(storages))),
            "configuration": In(stream.Signature(REGISTERS.layout)),
        }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        busy = Signal()
        hold, write = hold_between_rows(m, self.scores, self.configuration, busy)
        if self.mutant == "row":
            m.d.comb += self.configuration.ready.eq(~busy & ~(self.scores.valid & self.scores.ready))
        if self.mutant == "group":
            hold = write
        pipe = Pipeline(m, "stage", self.scores.valid & ~hold, self.results, ("found", "scaled"))
        m.d.comb += self.scores.ready.eq(pipe.advance & ~hold)
        words = []
        for storage in self.storages:
            m.submodules[storage.replace("-", "_")] = inner = Module()
            words += build_registers(inner, REGISTERS, self.configuration, write, storage)
        values = pipe.cut("found", [Array(registers["table"])[self.scores.p.code] for registers in words])
        values = pipe.cut(
            "scaled", [value * registers["scale"][0] for value, registers in zip(values, words, strict=True)]
        )
        pipe.finish(Cat((value + registers["bias"][0])[:BITS] for value, registers in zip(values, words, strict=True)))
        m.d.comb += busy.eq(pipe.busy & (self.mutant != "busy"))
        return m


@verilator
def test_constants_take_effect_between_rows() -> None:
    """In both storages, with writes offered before a row, in the middle of one, and at its last beat."""
    rng = random.Random(0)
    lengths = [rng.choice([1, 1, 2, 3, 9]) for _ in range(300)]
    loaded = constants(rng)
    group = [(0, loaded)]
    scores, results, taken = [], [], 0
    for length in lengths:
        for at in range(length):
            code = rng.randrange(ENTRIES)
            scores.append((code, at == length - 1))
            results.append(result(code, loaded))
            taken += 1
            if rng.random() < 0.05 and group[-1][0] <= taken - at:
                group.append((taken, constants(rng)))
        loaded = group[-1][1]
    writes = []
    for after, values in group:
        words = REGISTERS.writes(values)
        writes += [(after, address, word, at == len(words) - 1) for at, (address, word) in enumerate(words)]
    after, address, word, last = np.asarray(writes, np.int64).T
    fields = [(address, REGISTERS.address_bits), (word, REGISTERS.data_bits), (last, 1)]
    code, end = np.asarray(scores, np.int64).T
    stream = Stream(
        joined([(code, 3), (end, 1)]),
        joined([(np.asarray(results), BITS)] * 2),
        np.concatenate((after[:, None].astype(np.uint32), joined(fields)), axis=1),
        np.ones(len(scores), np.int64),
    )
    assert len(group) > 20
    agree(Verilated(Loaded(("flip-flops", "latches")), fast=False), stream, [BITS] * 2, ["flip-flops", "latches"])


def run(unit: Loaded, beats: int, valid: float, ready: float, configure: float) -> tuple[int, int]:
    """Offer rows and writes at random; return the numbers of groups of writes and of rows that were accepted."""
    rng = random.Random(0)
    loaded: Constants = {}
    coming = constants(rng)
    writes = REGISTERS.writes(coming)
    score, expected = (0, False), []
    offered = configuring = inside = grouped = False
    groups = rows = 0

    def cycle(at: int, context: Any) -> bool:
        nonlocal loaded, coming, writes, score, offered, configuring, inside, grouped, groups, rows, beats
        if loaded and beats and not offered and rng.random() < valid:
            offered, score = True, (rng.randrange(ENTRIES), rng.random() < 0.4 or beats == 1)
        if not writes and rng.random() < 0.1:
            coming = constants(rng)
            writes = REGISTERS.writes(coming)
        configuring = bool(writes) and (configuring or rng.random() < configure)
        context.set(unit.scores.valid, offered)
        context.set(unit.scores.payload, {"code": score[0], "last": score[1]})
        context.set(unit.configuration.valid, configuring)
        if configuring:
            address, word = writes[0]
            context.set(unit.configuration.payload, {"address": address, "data": word, "last": len(writes) == 1})
        context.set(unit.results.ready, rng.random() < ready)

        if context.get(unit.results.valid) and context.get(unit.results.ready):
            assert context.get(unit.results.payload) == expected.pop(0)
        written = configuring and context.get(unit.configuration.ready)
        taken = offered and context.get(unit.scores.ready)
        if written:
            assert not taken, "a write and a score at once"
            assert not inside, "a write in the middle of a row"
            assert not expected, "a write while a row is in the unit"
            del writes[0]
            grouped, configuring = bool(writes), False
            if not grouped:
                loaded, groups = coming, groups + 1
        if taken:
            assert not grouped, "a row in the middle of a group"
            expected.append(result(score[0], loaded))
            inside, offered = not score[1], False
            rows, beats = rows + score[1], beats - 1
        return bool(beats or expected)

    clocked(unit, cycle)
    return groups, rows


@pytest.mark.parametrize("traffic", [(1, 1, 1), (0.5, 1, 0.5), (0.9, 0.3, 0.3), (0.3, 0.9, 0.9)])
def test_writes_and_rows_stay_apart(traffic: tuple[float, float, float]) -> None:
    groups, rows = run(Loaded(("flip-flops",)), 300, *traffic)
    assert groups > 10
    assert rows > 50


@pytest.mark.parametrize(
    ("mutant", "message"), [("busy", "in the unit"), ("row", "middle of a row"), ("group", "middle of a group")]
)
def test_mutants_that_mix_writes_and_rows_are_noticed(mutant: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(Loaded(("flip-flops",), mutant), 600, 0.25, 0.5, 0.5)


def test_a_map_of_registers() -> None:
    assert (REGISTERS.words, REGISTERS.address_bits, REGISTERS.data_bits) == (7, 3, 6)
    assert [REGISTERS.address(name) for name in ("bias", "table", "scale")] == [0, 1, 6]
    assert REGISTERS.writes({"scale": 7, "bias": -1, "table": [0, -1, 2, 3, 4]}) == [
        *((0, 63), (1, 0), (2, 63), (3, 2), (4, 3), (5, 4), (6, 7)),
    ]
    assert RegisterMap([Register("one", unsigned(4))]).address_bits == 1
    with pytest.raises(KeyError):
        REGISTERS.address("offset")
    right = {"bias": 0, "table": [0] * ENTRIES, "scale": 0}
    for wrong, said in (
        ({"bias": 32}, "bias of this unit is from -32 to 31, not 32"),
        ({"bias": -33}, "bias of this unit is from -32 to 31, not -33"),
        ({"table": [0, 0, 16, 0, 0]}, "table of this unit is from -8 to 7, not 16"),
        ({"scale": -1}, "scale of this unit is from 0 to 7, not -1"),
    ):
        with pytest.raises(ValueError, match=said):
            REGISTERS.writes(right | wrong)
