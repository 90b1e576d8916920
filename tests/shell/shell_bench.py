"""A bench for whole shells: rows as AXI4-Stream, and the outputs expected from golden and the rules of the shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.vectors import Stream, pack
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.register_map import Register
from softmaxkit.shell.unit_in_shell import UnitInShell

FIELDS = ("tdata", "tkeep", "tuser", "tlast", "tid")


class ShellBench(wiring.Component):
    """A unit in its shell, with the streams that the harness drives: the fields of a beat are concatenated.

    Writes use AXI4-Lite or the stream of constants; scores wait until the last write of a group is done.

    Args:
        unit: to build.
        options: of its shell.
        numbers: values of the parameter ports of a shell without AXI4-Lite.
    """

    def __init__(self, unit: Any, options: ShellOptions, numbers: dict[str, int] | None = None) -> None:
        self.shelled, self.numbers = UnitInShell(unit, options), numbers or {}
        self.memories, self.storage = unit.memories, unit.storage
        self.map = self.shelled.shell.map
        ports: dict[str, Any] = {
            "scores": In(stream.Signature(len(Cat(fields(self.shelled.s_axis))))),
            "results": Out(stream.Signature(len(Cat(fields(self.shelled.m_axis))))),
            **{name: unit.signature.members[name] for name in unit.memories},
        }
        if self.map is not None:
            ports["configuration"] = In(stream.Signature(data.StructLayout({"address": 20, "data": 32, "last": 1})))
        elif unit.registers is not None:
            ports["configuration"] = In(stream.Signature(unit.registers.layout))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shelled = shelled = self.shelled
        source, sink, quiet = shelled.s_axis, shelled.m_axis, Signal(init=1)
        port = getattr(self, "configuration", None)
        if port is not None:
            grouped = Signal()
            with m.If(port.valid & port.ready):
                m.d.sync += grouped.eq(~port.p.last)
            m.d.comb += quiet.eq(~port.valid & ~grouped)
        m.d.comb += [
            Cat(fields(source)).eq(self.scores.payload),
            source.tvalid.eq(self.scores.valid & quiet),
            self.scores.ready.eq(source.tready & quiet),
            self.results.payload.eq(Cat(fields(sink))),
            self.results.valid.eq(sink.tvalid),
            sink.tready.eq(self.results.ready),
            *(getattr(shelled, name).eq(value) for name, value in self.numbers.items()),
        ]
        for name in self.memories:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(shelled, name))
        if self.map is not None:
            self._bus(m, shelled.s_axil, port)
        elif port is not None:
            bus = shelled.s_axis_cfg
            registers = shelled.unit.registers
            m.d.comb += [
                bus.tdata[: registers.data_bits].eq(port.p.data),
                bus.tdata[-(-registers.data_bits // 8) * 8 :].eq(port.p.address),
                bus.tlast.eq(port.p.last),
                bus.tvalid.eq(port.valid),
                port.ready.eq(bus.tready),
            ]
        return m

    def _bus(self, m: Module, bus: Any, port: Any) -> None:
        addressed, filled = Signal(), Signal()
        m.d.comb += [
            bus.awaddr.eq(port.p.address),
            bus.awvalid.eq(port.valid & ~addressed),
            bus.wdata.eq(port.p.data),
            bus.wstrb.eq(15),
            bus.wvalid.eq(port.valid & ~filled),
            bus.bready.eq(1),
            port.ready.eq(bus.bvalid),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += addressed.eq(1)
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += filled.eq(1)
        with m.If(bus.bvalid):
            m.d.sync += [addressed.eq(0), filled.eq(0)]

    def widths(self, port: str) -> list[int]:
        """Return the widths of the fields of a stream."""
        return [len(field) for field in fields(getattr(self.shelled, port))]


def fields(port: Any) -> list[Value]:
    return [getattr(port, name) for name in FIELDS if hasattr(port, name)]


@dataclass
class Rows:
    """Rows with one set of constants, padded to whole beats and to the longest row.

    Attributes:
        codes, kept, attended: (rows, positions), including the positions beyond the end of a row.
        beats: of each row.
        tags: of each row.
        writes: register writes before the rows, `(address, data)`.
    """

    codes: Any
    kept: Any
    attended: Any
    beats: Any
    tags: Any
    writes: Sequence[tuple[int, int]] = ()


def rows_for(
    unit: Any, constants: Any, options: ShellOptions, results: int, random: np.random.Generator, too_long: bool = False
) -> Rows:
    """Return rows of all kinds; with `keep`, some have holes; with `too_long`, some exceed `max_row`."""
    rows = random_rows(unit, constants, results, random)
    count, lanes = len(rows.lengths), unit.lanes
    longest = 2 * unit.max_row + 3 * lanes if too_long else unit.max_row
    lengths = rows.lengths.copy()
    if too_long:
        some = random.random(count) < 0.2
        lengths[some] = random.integers(unit.max_row, longest, int(some.sum()), endpoint=True)
    beats = -(-lengths // lanes)
    width = int(beats.max()) * lanes
    low, high = int(rows.codes.min()), int(rows.codes.max())
    codes = random.integers(low, high, (count, width), endpoint=True)
    codes[:, : min(rows.codes.shape[1], width)] = rows.codes[:, :width]
    inside = np.arange(width) < lengths[:, None]
    attended = random.random((count, width)) < 0.7
    shared = min(rows.mask.shape[1], width)
    attended[:, :shared] = np.where(
        np.arange(shared) < rows.lengths[:, None], rows.mask[:, :shared], attended[:, :shared]
    )
    kept = inside & attended
    if options.keep:
        holes = (random.random((count, width)) < 0.3) & (random.random((count, 1)) < 0.3)
        kept = inside & ~holes
    return Rows(codes, kept, attended & inside if not options.keep else attended, beats, _tags(options, count, random))


def _tags(options: ShellOptions, count: int, random: np.random.Generator) -> Any:
    return random.integers(0, max(options.tags, 1), count)


def numbered_rows(
    bench: ShellBench,
    unit: Any,
    constants: Any,
    options: ShellOptions,
    count: int,
    random: np.random.Generator,
    most: int = 0,
) -> Rows:
    """Return blocks of rows whose length and mask come from registers, with the writes of these."""
    length = int(random.integers(1, most or unit.max_row, endpoint=True))
    block = int(random.integers(1, 2 * length, endpoint=True))
    offset, causal = int(random.integers(-length, length, endpoint=True)), bool(random.random() < 0.7)
    numbers = {"row_length": length, "causal": causal, "causal_offset": offset, "block_rows": block, "block": 1}
    lanes = unit.lanes
    beats = -(-length // lanes)
    given = random_rows(unit, constants, count * unit.max_row, random).codes
    codes = random.choice(given.ravel(), (count, beats * lanes))
    place = np.arange(beats * lanes)
    kept = np.broadcast_to(place < length, codes.shape).copy()
    if options.keep:
        kept &= random.random(codes.shape) < 0.9
    attended = np.ones(codes.shape, bool)
    if causal:
        attended = place < (np.arange(count) % block)[:, None] + offset + 1
    writes = [(address_of(bench, name), value & 0xFFFFFFFF) for name, value in numbers.items()]
    return Rows(codes, kept, attended, np.full(count, beats), _tags(options, count, random), writes)


def address_of(bench: Any, name: str) -> int:
    register: Register = next(candidate for candidate in bench.map.registers if candidate.name == name)
    return register.address


def constant_writes(bench: ShellBench, unit: Any, constants: Any, of_set: int = 0) -> list[tuple[int, int]]:
    """Return the AXI4-Lite writes of constants, without the final `load`."""
    return [
        (bench.map.base + of_set * bench.map.stride + 4 * address, word) for address, word in unit.writes(constants)
    ]


def shell_stream(
    bench: ShellBench,
    unit: Any,
    options: ShellOptions,
    segments: Sequence[tuple[Any, Rows]],
    random: np.random.Generator,
    first: Sequence[tuple[int, int]] = (),
) -> Stream:
    """Pack rows and expected results as AXI4-Stream beats; constants can be a list with those of each tag."""
    scores, results, writes, positions, before = [], [], [], [], 0
    for constants, rows in segments:
        group = [*(first if not before else ()), *rows.writes]
        if unit.registers is not None and not isinstance(constants, list):
            if bench.map is not None:
                group += [*constant_writes(bench, unit, constants), (address_of(bench, "constants"), 1)]
            else:
                group += unit.writes(constants)
        if group:
            writes.append(_pack_writes(bench, unit, group, before))
        scores.append(_scores(bench, unit, options, rows, random))
        expected, places = _results(bench, unit, options, constants, rows)
        results.append(expected)
        positions.append(places)
        before += len(scores[-1])
    return Stream(
        np.concatenate(scores),
        np.concatenate(results),
        np.concatenate(writes) if writes else np.zeros((0, 1), np.uint32),
        np.concatenate(positions),
        -(-unit.result_bits // 8) * 8,
    )


def _pack_writes(bench: ShellBench, unit: Any, group: Sequence[tuple[int, int]], before: int) -> Any:
    address, word = np.asarray(group, np.int64).T[:, :, None]
    last = np.arange(len(group))[:, None] == len(group) - 1
    if bench.map is not None:
        packed = pack([(address, 20), (word, 32), (last.astype(np.int64), 1)])
    else:
        registers = unit.registers
        packed = pack([(address, registers.address_bits), (word, registers.data_bits), (last.astype(np.int64), 1)])
    return np.concatenate((np.full((len(group), 1), before, np.uint32), packed), axis=1)


def _by_beats(values: Any, lanes: int, chosen: Any) -> Any:
    """Return values (rows, positions) as (beats, lanes), for the beats selected by `chosen`, (rows, beats)."""
    return values.reshape(len(values), -1, lanes)[chosen]


def _scores(bench: ShellBench, unit: Any, options: ShellOptions, rows: Rows, random: np.random.Generator) -> Any:
    lanes, bits = unit.lanes, unit.code_shape.width
    padded = -(-bits // 8) * 8
    number = np.arange(rows.codes.shape[1] // lanes)
    chosen = number < rows.beats[:, None]
    noise = random.integers(0, 1 << (padded - bits), rows.codes.shape) << bits
    packed = [(_by_beats((rows.codes & ((1 << bits) - 1)) | noise, lanes, chosen), padded)]
    if options.keep:
        step = padded // 8
        keep = np.repeat(_by_beats(rows.kept, lanes, chosen)[:, :, None], step, axis=2)
        if step > 1:  # a position with only some of its bytes kept is not kept
            part = np.arange(step) == random.integers(0, step, keep.shape[:2])[:, :, None]
            keep |= part & (random.random(keep.shape[:2]) < 0.5)[:, :, None]
        packed.append((keep.reshape(len(keep), -1).astype(np.int64), 1))
    if not options.row_length:
        packed.append((_by_beats(rows.attended, lanes, chosen).astype(np.int64), 1))
        last = (number == rows.beats[:, None] - 1)[chosen][:, None]
        packed.append((last.astype(np.int64), 1))
    if options.tags:
        tags = np.broadcast_to(rows.tags[:, None], chosen.shape)
        packed.append((tags[chosen][:, None], options.tag_bits))
    assert sum(values.shape[1] * width for values, width in packed) == sum(bench.widths("s_axis"))
    return pack(packed)


def _results(bench: ShellBench, unit: Any, options: ShellOptions, constants: Any, rows: Rows) -> tuple[Any, Any]:
    lanes, bits = unit.lanes, unit.result_bits
    padded = -(-bits // 8) * 8
    kept, beats = rows.kept, rows.beats
    if unit.holds_rows:
        kept = kept & (np.arange(kept.shape[1]) < unit.max_row)
        beats = np.minimum(beats, -(-unit.max_row // lanes))
    mask = kept & rows.attended
    if unit.holds_rows:  # golden accepts no longer rows
        width = -(-unit.max_row // lanes) * lanes
        mask, kept = mask[:, :width], kept[:, :width]
    codes = rows.codes[:, : mask.shape[1]]
    golden = np.zeros(codes.shape, np.int64)
    for tag, own in enumerate(constants if isinstance(constants, list) else [constants]):
        some = rows.tags == tag if isinstance(constants, list) else np.full(len(codes), True)
        if some.any():
            golden[some] = unit.golden(codes[some], mask[some], own)
    number = np.arange(codes.shape[1] // lanes)
    chosen = number < beats[:, None]
    packed = [(_by_beats(golden, lanes, chosen), padded)]
    if options.keep:
        ends = np.arange(kept.shape[1]) // lanes == beats[:, None] - 1
        keep = _by_beats(kept | ~ends, lanes, chosen).astype(np.int64)
        packed.append((np.repeat(keep, padded // 8, axis=1), 1))
    last = (number == beats[:, None] - 1)[chosen][:, None]
    packed.append((last.astype(np.int64), 1))
    if options.tags:
        packed.append((np.broadcast_to(rows.tags[:, None], chosen.shape)[chosen][:, None], options.tag_bits))
    assert sum(values.shape[1] * width for values, width in packed) == sum(bench.widths("m_axis"))
    return pack(packed), np.full(int(chosen.sum()), lanes)
