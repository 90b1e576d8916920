"""Stimuli for measuring the parts of an engine, and the expected outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.formats import Array

QUERIES, KEYS = 12, 32
"""Number of queries in an energy measurement, and of keys that each attends to."""

SPREAD = 32.0
"""Standard deviation of the normally distributed codes of queries, keys and values."""


class Words(NamedTuple):
    """The stimuli of a part, and its expected outputs.

    Attributes:
        inputs: for each input port, its value in each cycle.
        outputs: the name of the output stream.
        expected: the expected payloads of that stream, in order.
    """

    inputs: dict[str, Sequence[int]]
    outputs: str
    expected: list[int]


class Sample(NamedTuple):
    """Queries, keys and values, and the golden results of an engine; all int64 codes.

    Attributes:
        queries: (QUERIES, channels).
        keys: (KEYS, channels).
        values: (KEYS, channels).
        scores: (QUERIES, KEYS).
        outputs: (QUERIES, channels).
    """

    queries: Array
    keys: Array
    values: Array
    scores: Array
    outputs: Array

    @classmethod
    def of(cls, engine: Engine) -> Sample:
        """Return a sample of normally distributed codes for an engine, always with the same seed."""
        random, channels = np.random.default_rng(0), engine.sizes.channels
        queries, keys, values = (_codes(random, count, channels) for count in (QUERIES, KEYS, KEYS))
        outputs = engine.golden(queries, keys, values, np.full(QUERIES, KEYS))
        return cls(queries, keys, values, engine.attention.scores(queries, keys), outputs)


def of_scores(engine: Engine, sample: Sample) -> Words:
    """Return the stimuli of the QK array, with the scores as expected outputs."""
    sizes, unit = engine.sizes, engine.unit
    words = sizes.beats(KEYS) * sizes.steps
    cycles, bits, width = words * QUERIES, sizes.max_keys.bit_length(), 8 * sizes.columns
    payloads = []
    for cycle in range(cycles):
        query, step = cycle // words, cycle % sizes.steps
        codes = sample.queries[query, step * sizes.columns :][: sizes.columns]
        payloads.append(_packed(codes, 8) | KEYS << width | (step == sizes.steps - 1) << (width + bits))
    inputs = {
        "queries_valid": [1] * cycles,
        "queries_payload": payloads,
        "scores_ready": [1] * cycles,
        "keys_data": _memory(sample.keys, sizes, cycles, 1),
    }
    return Words(_after_reset(inputs), "scores", _score_beats(sample.scores, sizes, unit.code_shape.width))


def _score_beats(scores: Array, sizes: EngineSizes, bits: int) -> list[int]:
    """Return rows of scores as beats of the unit's input stream."""
    full, last = (1 << sizes.rows) - 1, sizes.beats(KEYS) - 1
    return [
        _packed(row[beat * sizes.rows :][: sizes.rows], bits)
        | full << (bits * sizes.rows)
        | (beat == last) << ((bits + 1) * sizes.rows)
        for row in scores
        for beat in range(last + 1)
    ]


def of_values(engine: Engine, sample: Sample) -> Words:
    """Return the stimuli of the PV array, timed as from the unit, with the attention outputs as expected outputs."""
    sizes = engine.sizes
    words = sizes.beats(KEYS) * sizes.steps
    cycles = words * QUERIES
    beats = _weight_beats(engine, sample)
    inputs: dict[str, Sequence[int]] = {
        "weights_valid": [int(cycle % sizes.steps == 0) for cycle in range(cycles)],
        "weights_payload": [beats[cycle // sizes.steps] for cycle in range(cycles)],
        "outputs_ready": [1] * cycles,
        "values_data": _memory(sample.values, sizes, cycles, 2),  # weights pass through a queue first
    }
    if engine.pipeline == "deferred":
        rows = engine.attention.spec.deferred(sample.scores, None, engine.attention.constants)
        width = engine.output.factors.p.factor.shape().width
        least = engine.unit.least_places
        pairs = zip(rows.factor, rows.places, strict=True)
        factors = [int(factor[0]) | (int(places[0]) - least) << width for factor, places in pairs]
        # A row's sums arrive a few cycles after its weights.
        inputs["factors_payload"] = [factors[max(cycle - 4 - sizes.steps, 0) // words] for cycle in range(cycles)]
        inputs["factors_valid"] = [1] * cycles
    expected = [
        _packed(output[step * sizes.columns :][: sizes.columns], 8) | (step == sizes.steps - 1) << (8 * sizes.columns)
        for output in sample.outputs
        for step in range(sizes.steps)
    ]
    return Words(_after_reset(inputs), "outputs", expected)


def _weight_beats(engine: Engine, sample: Sample) -> list[int]:
    """Return rows of weights as beats of the PV array's input stream."""
    spec, constants = engine.attention.spec, engine.attention.constants
    sizes, bits = engine.sizes, engine.unit.weight_bits
    last = sizes.beats(KEYS) - 1
    if engine.pipeline != "deferred":
        weights = spec.weights(spec.golden(sample.scores, None, constants))
        moves, width, move_bits = np.zeros((len(weights), 1), np.int64), KEYS, 0
        unmoved = 0
    else:
        rows = spec.deferred(sample.scores, None, constants)
        payload = engine.unit.weights.p
        weights, moves, width = rows.weights, rows.rises, rows.width
        move_bits, unmoved = payload.rise.shape().width, 0
        if rows.scales is not None:
            moves = moves | rows.scales << move_bits
            unmoved = 1 << rows.scale_places << move_bits
            move_bits += payload.scale.shape().width
    words = []
    for row, move in zip(weights, moves, strict=True):
        for beat in range(last + 1):
            first = beat * sizes.rows
            moved = int(move[first // width]) if first % width == 0 else unmoved
            word = _packed(row[first:][: sizes.rows], bits) | moved << (bits * sizes.rows)
            words.append(word | (beat == last) << (bits * sizes.rows + move_bits))
    return words


def of_unit(engine: Engine, sample: Sample) -> Words:
    """Return the stimuli of a deferred unit, at the rate it accepts, with the weights as expected outputs."""
    beats = _score_beats(sample.scores, engine.sizes, engine.unit.code_shape.width) * 12
    pace = engine.unit.pace
    cycles = range(len(beats) * pace)
    inputs: dict[str, Sequence[int]] = {
        "scores_valid": [int(cycle % pace == 0) for cycle in cycles],
        "scores_payload": [beats[cycle // pace] for cycle in cycles],
        "weights_ready": [1] * len(cycles),
        "factors_ready": [1] * len(cycles),
    }
    return Words(_after_reset(inputs), "weights", _weight_beats(engine, sample) * 12)


def _codes(random: np.random.Generator, count: int, channels: int) -> Array:
    """Return normally distributed 8-bit codes, int64 (count, channels)."""
    return np.clip(np.round(SPREAD * random.standard_normal((count, channels))), -128, 127).astype(np.int64)


def _memory(codes: Array, sizes: EngineSizes, cycles: int, after: int) -> list[int]:
    """Return the words that a buffer outputs in each cycle, repeating, `after` cycles after the input."""
    words = [
        _packed(codes[beat : beat + sizes.rows, step : step + sizes.columns].ravel(), 8)
        for beat in range(0, len(codes), sizes.rows)
        for step in range(0, sizes.channels, sizes.columns)
    ]
    return [words[(cycle - after) % len(words)] for cycle in range(cycles)]


def _packed(codes: Array, bits: int) -> int:
    """Pack codes into one word, the first in the lowest bits."""
    word = 0
    for code in reversed(codes.tolist()):
        word = word << bits | (code & (1 << bits) - 1)
    return word


def _after_reset(inputs: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Prepend a reset cycle to the inputs, with the values of the first cycle."""
    return {name: [values[0], *values] for name, values in inputs.items()}
