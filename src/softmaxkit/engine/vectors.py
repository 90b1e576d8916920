"""Test vectors of an engine: queries, keys and values of heads as beats, with the outputs of golden attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from softmaxkit.engine.cycles import times
from softmaxkit.engine.engine import Engine
from softmaxkit.flow.vectors import Stream, pack
from softmaxkit.methods.base.constants import Constants

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Integers, Packed

SPREADS = (4.0, 16.0, 32.0, 64.0)
"""Standard deviations of random codes."""


class EngineAsUnit(wiring.Component):
    """An engine with the port names of a unit, so that the tools that drive and check units can be used.

    A query takes the place of a row of `channels` scores, in beats of `columns`.
    """

    masks, whole_rows = 1, True

    def __init__(self, engine: Engine) -> None:
        self.engine, self.memories, self.storage = engine, engine.memories, engine.storage
        self.lanes, self.max_row = engine.sizes.columns, engine.sizes.channels
        members = engine.signature.members
        names = {"queries": "scores", "outputs": "results"}
        super().__init__({names.get(name, name): member for name, member in members.items()})

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a query that attends to all keys to its last output."""
        return times(self.engine, [self.engine.sizes.max_keys])[0].last + 1

    def interval(self, length: int) -> int:
        """Return the most cycles between queries: one with fewer keys waits until the previous one has left."""
        return self.latency(length)

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        m.submodules.engine = engine = self.engine
        wiring.connect(m, wiring.flipped(self.scores), engine.queries)
        wiring.connect(m, engine.outputs, wiring.flipped(self.results))
        for name in ("configuration", *self.memories):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(engine, name))
        return m


@dataclass(frozen=True)
class Head:
    """Queries of one head, with the keys and values that are loaded for them.

    Attributes:
        queries: int8 codes, int64 (queries, channels).
        keys, values: likewise, (keys, channels).
        attended: int64, (queries,): each query attends to its first `attended` keys, 0 or more.
        constants: to load with the keys; None for those of the engine.
    """

    queries: Integers
    keys: Integers
    values: Integers
    attended: Integers
    constants: Constants | None = None


def random_head(engine: Engine, attended: Integers, random: np.random.Generator) -> Head:
    """Return random queries that attend to `attended` keys each, with codes of narrow and wide spread and corner cases.

    Loadable constants are those of a random example of the method.
    """
    channels, most = engine.sizes.channels, max(int(attended.max()), 1)
    queries, keys, values = (_codes((count, channels), random) for count in (len(attended), most, most))
    examples = engine.attention.spec.examples()
    constants = None if engine.unit.registers is None else examples[int(random.integers(len(examples)))]
    return Head(queries, keys, values, attended, constants)


def _codes(shape: tuple[int, int], random: np.random.Generator) -> Integers:
    """Return int8 codes; each row is Gaussian, uniform, at the ends of the range, or constant."""
    near = np.round(random.choice(SPREADS, (shape[0], 1)) * random.standard_normal(shape))
    any_code = random.integers(-128, 128, shape)
    ends = random.choice(np.asarray([-128, 127, 0]), shape)
    equal = np.broadcast_to(any_code[:, :1], shape)
    kind = random.integers(0, 8, (shape[0], 1))
    codes: Integers = np.select([kind < 5, kind == 5, kind == 6], [near, any_code, ends], equal)
    return np.clip(codes, -128, 127).astype(np.int64)


def engine_stream(engine: Engine, heads: Sequence[Head]) -> Stream:
    """Pack heads with their golden outputs for an engine; each head is loaded before its first query."""
    steps, columns = engine.sizes.steps, engine.sizes.columns
    queries, outputs, writes, begins = [], [], [], []
    beats = written = 0
    for head in heads:
        writes.append(_writes(engine, head, beats))
        group = written, written + len(writes[-1])
        written = group[1]
        golden = engine.golden(head.queries, head.keys, head.values, head.attended, head.constants)
        last = np.tile(np.arange(steps) == steps - 1, len(head.queries))[:, None].astype(np.int64)
        keys = np.repeat(head.attended, steps)[:, None]
        bits = engine.sizes.max_keys.bit_length()
        queries.append(pack([(head.queries.reshape(-1, columns), 8), (keys, bits), (last, 1)]))
        outputs.append(pack([(golden.reshape(-1, columns), 8), (last, 1)]))
        begins += [(beats + query * steps, *group) for query in range(len(head.queries))]
        beats += len(last)
    return Stream(
        np.concatenate(queries),
        np.concatenate(outputs),
        np.concatenate(writes),
        np.full(beats, columns),
        8,
        np.asarray([*begins, (beats, written, written)], np.uint32),
    )


def _writes(engine: Engine, head: Head, after: int) -> Packed:
    """Pack the writes that load a head, to be offered after `after` beats of queries."""
    groups = [(base, _words(engine, codes)) for base, codes in ((0, head.keys), (engine.sizes.words, head.values))]
    fields = [(base + np.arange(len(words)), words, 8) for base, words in groups]
    if engine.unit.registers is not None:
        pairs = engine.unit.writes(head.constants or engine.attention.constants)
        address, data = np.asarray(pairs, np.int64).T
        fields.append((2 * engine.sizes.words + address, data[:, None], engine.unit.registers.data_bits))
    packed = []
    for address, data, bits in fields:
        closes = fields[-1][0] is address  # one group, so that no query comes in between
        last = ((np.arange(len(address)) == len(address) - 1) & closes)[:, None].astype(np.int64)
        padding = np.zeros((len(data), engine.data_bits - bits * data.shape[1]), np.int64)
        packed.append(pack([(address[:, None], engine.address_bits), (data, bits), (padding, 1), (last, 1)]))
    writes = np.concatenate(packed)
    return np.concatenate((np.full((len(writes), 1), after, np.uint32), writes), axis=1)


def _words(engine: Engine, codes: Integers) -> Integers:
    """Return codes (keys, channels) as buffer words (words, codes)."""
    sizes = engine.sizes
    beats = sizes.beats(len(codes))
    padded = np.zeros((beats * sizes.rows, sizes.channels), np.int64)
    padded[: len(codes)] = codes
    laid = padded.reshape(beats, sizes.rows, sizes.steps, sizes.columns).transpose(0, 2, 1, 3)
    words: Integers = laid.reshape(beats * sizes.steps, sizes.rows * sizes.columns)
    return words
