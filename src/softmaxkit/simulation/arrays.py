"""The arrays of an engine in cells: area, clock, and energy of a cycle, each output compared with the integers.

    python -m softmaxkit.simulation.arrays --json results/accelerator/arrays-sky130.json

measures both arrays of every method at a few sizes, and units of the deferred pipeline, which `synth` has not;
`softmaxkit simulate` fits its own sizes to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.files import write_json
from softmaxkit.formats import Array
from softmaxkit.methods import ALL_METHODS, METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.simulation.driven import Driven, drive
from softmaxkit.simulation.pipelines import pipelines_of

SIZES = ((2, 2, 4), (4, 2, 4), (2, 4, 4), (2, 2, 8))
"""Rows, columns and channels that tell apart what a multiplier, a row or column, and a channel cost: each but the first
changes one."""

LANES = 16
"""Of a deferred unit."""

MAX_KEYS = 4096
"""For which accumulators are wide enough."""

QUERIES, KEYS = 12, 32
"""Queries that energy is measured with, and the keys of each."""

SPREAD = 32.0
"""Standard deviation of the codes of queries, keys and values, which are normal."""

QUERY_KEY, VALUE, UNIT = ARRAYS = ("query-key", "value", "deferred unit")


class Words(NamedTuple):
    """What goes into a part, and what has to come out.

    Attributes:
        inputs: of each cycle, by port.
        outputs: the name of the output stream.
        expected: its payloads, in order.
    """

    inputs: dict[str, Sequence[int]]
    outputs: str
    expected: list[int]


class Back(wiring.Component):
    """The PV array of an engine, and what turns its sums to outputs."""

    def __init__(self, engine: Engine) -> None:
        self.value, self.output = engine.value, engine.output
        inner, outer = engine.value.signature.members, engine.output.signature.members
        ports = {name: member for name, member in inner.items() if name != "sums"}
        ports |= {name: member for name, member in outer.items() if name != "sums"}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.value, m.submodules.output = value, output = self.value, self.output
        wiring.connect(m, value.sums, output.sums)
        for name in self.signature.members:
            inner = value if name in ("weights", "values") else output
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(inner, name))
        return m


class Sample(NamedTuple):
    """Queries on keys and values, and what an engine makes of them.

    Attributes:
        queries: int64 (QUERIES, channels).
        keys, values: int64 (KEYS, channels).
        scores: codes, (QUERIES, KEYS).
        outputs: (QUERIES, channels).
    """

    queries: Array
    keys: Array
    values: Array
    scores: Array
    outputs: Array

    @classmethod
    def of(cls, engine: Engine) -> Sample:
        """Return normal codes for an engine."""
        random, channels = np.random.default_rng(0), engine.sizes.channels
        queries, keys, values = (_codes(random, count, channels) for count in (QUERIES, KEYS, KEYS))
        outputs = engine.golden(queries, keys, values, np.full(QUERIES, KEYS))
        return cls(queries, keys, values, engine.attention.scores(queries, keys), outputs)


def measure_arrays(cells: str, specs: Sequence[Spec], command: Sequence[str]) -> dict[str, Any]:
    """Map the arrays of some specs at `SIZES`, and the deferred units that they have, and return the record.

    Raises:
        RuntimeError: an output of a netlist differs from the integers.
        ToolError: a tool is missing or failed.
    """
    results = []
    for spec in specs:
        for pipeline, name, engine in _parts(spec):
            driven = measure_array(engine, name, cells)
            about = {"array": name, "pipeline": pipeline, **vars(engine.sizes), "cells": cells}
            results.append(make_result(spec, "hardware", **about, **driven.figures()))
            print(f"{spec.name} {pipeline} {name} {vars(engine.sizes)}: {driven.figures()}", flush=True)
    return make_record(command, 0, {"cells": cells, "queries": QUERIES, "keys": KEYS}, results)


def _parts(spec: Spec) -> Iterator[tuple[str, str, Engine]]:
    """Yield what is measured of a method: pipeline, part, and the engine that it is of."""
    for pipeline in pipelines_of(spec):
        engines = [
            Engine(Attention.of(spec, channels), rows, columns, MAX_KEYS, pipeline=pipeline)
            for rows, columns, channels in SIZES
        ]
        yield from ((pipeline, name, engine) for engine in engines for name in (QUERY_KEY, VALUE))
        if pipeline == "deferred":
            yield pipeline, UNIT, Engine(Attention.of(spec, 4), LANES, 2, MAX_KEYS, pipeline=pipeline)


def measure_array(engine: Engine, name: str, cells: str) -> Driven:
    """Map a part of an engine and run its netlist on random codes.

    Args:
        engine: the hardware.
        name: one of `ARRAYS`.
        cells: process.

    Raises:
        RuntimeError: an output differs from the integers.
        ToolError: a tool is missing or failed.
    """
    words = {QUERY_KEY: _of_scores, VALUE: _of_values, UNIT: _of_unit}[name](engine, Sample.of(engine))
    part = {QUERY_KEY: engine.query_key, VALUE: Back(engine), UNIT: engine.unit}[name]
    driven = drive(part, words.inputs, cells)
    ports = {name.rstrip("_"): values for name, values in driven.outputs.items()}  # a name that is taken gets a "_"
    stream = zip(ports[f"{words.outputs}_valid"], ports[f"{words.outputs}_payload"], strict=True)
    given = [payload for valid, payload in stream if valid]
    wrong = sum(one != other for one, other in zip(given, words.expected, strict=False))
    if wrong or len(given) < len(words.expected) // 2:
        raise RuntimeError(f"{wrong} of {len(given)} outputs of the {name} array differ from the integers")
    return driven


def _of_scores(engine: Engine, sample: Sample) -> Words:
    """Return queries that meet `KEYS` keys each, and their scores."""
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
    """Return rows of scores as beats of the unit's stream."""
    full, last = (1 << sizes.rows) - 1, sizes.beats(KEYS) - 1
    return [
        _packed(row[beat * sizes.rows :][: sizes.rows], bits)
        | full << (bits * sizes.rows)
        | (beat == last) << ((bits + 1) * sizes.rows)
        for row in scores
        for beat in range(last + 1)
    ]


def _of_values(engine: Engine, sample: Sample) -> Words:
    """Return weights as the unit gives them, and the outputs."""
    sizes = engine.sizes
    words = sizes.beats(KEYS) * sizes.steps
    cycles = words * QUERIES
    beats = _weight_beats(engine, sample)
    inputs: dict[str, Sequence[int]] = {
        "weights_valid": [int(cycle % sizes.steps == 0) for cycle in range(cycles)],
        "weights_payload": [beats[cycle // sizes.steps] for cycle in range(cycles)],
        "outputs_ready": [1] * cycles,
        "values_data": _memory(sample.values, sizes, cycles, 2),  # weights first go through a queue
    }
    if engine.pipeline == "deferred":
        rows = engine.attention.spec.deferred(sample.scores, None, engine.attention.constants)
        width = engine.output.factors.p.factor.shape().width
        least = engine.unit.least_places
        factors = [int(row[0]) | (int(places[0]) - least) << width for row, places in zip(*rows[-2:], strict=True)]
        # A row's sums come some cycles after its weights.
        inputs["factors_payload"] = [factors[max(cycle - 4 - sizes.steps, 0) // words] for cycle in range(cycles)]
        inputs["factors_valid"] = [1] * cycles
    expected = [
        _packed(output[step * sizes.columns :][: sizes.columns], 8) | (step == sizes.steps - 1) << (8 * sizes.columns)
        for output in sample.outputs
        for step in range(sizes.steps)
    ]
    return Words(_after_reset(inputs), "outputs", expected)


def _weight_beats(engine: Engine, sample: Sample) -> list[int]:
    """Return the weights of rows as beats of the stream into the PV array."""
    spec, constants = engine.attention.spec, engine.attention.constants
    sizes, bits = engine.sizes, engine.unit.weight_bits
    last = sizes.beats(KEYS) - 1
    if engine.pipeline != "deferred":
        weights = spec.weights(spec.golden(sample.scores, None, constants))
        rises, width, rise_bits = np.zeros((len(weights), 1), np.int64), KEYS, 0
    else:
        rows = spec.deferred(sample.scores, None, constants)
        weights, rises, width = rows.weights, rows.rises, rows.width
        rise_bits = engine.unit.weights.p.rise.shape().width
    words = []
    for row, rise in zip(weights, rises, strict=True):
        for beat in range(last + 1):
            first = beat * sizes.rows
            risen = int(rise[first // width]) if first % width == 0 else 0
            word = _packed(row[first:][: sizes.rows], bits) | risen << (bits * sizes.rows)
            words.append(word | (beat == last) << (bits * sizes.rows + rise_bits))
    return words


def _of_unit(engine: Engine, sample: Sample) -> Words:
    """Return scores at full rate, and the weights of a deferred unit."""
    beats = _score_beats(sample.scores, engine.sizes, engine.unit.code_shape.width) * 12
    inputs = {
        "scores_valid": [1] * len(beats),
        "scores_payload": beats,
        "weights_ready": [1] * len(beats),
        "factors_ready": [1] * len(beats),
    }
    return Words(_after_reset(inputs), "weights", _weight_beats(engine, sample) * 12)


def _codes(random: np.random.Generator, count: int, channels: int) -> Array:
    """Return normal codes, int64 (count, channels)."""
    return np.clip(np.round(SPREAD * random.standard_normal((count, channels))), -128, 127).astype(np.int64)


def _memory(codes: Array, sizes: EngineSizes, cycles: int, after: int) -> list[int]:
    """Return the words that a buffer gives in each cycle, so many after the input, over and over."""
    words = [
        _packed(codes[beat : beat + sizes.rows, step : step + sizes.columns].ravel(), 8)
        for beat in range(0, len(codes), sizes.rows)
        for step in range(0, sizes.channels, sizes.columns)
    ]
    return [words[(cycle - after) % len(words)] for cycle in range(cycles)]


def _packed(codes: Array, bits: int) -> int:
    """Return codes side by side in one word, the first lowest."""
    word = 0
    for code in reversed(codes.tolist()):
        word = word << bits | (code & (1 << bits) - 1)
    return word


def _after_reset(inputs: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Put the cycle of the reset before those of the inputs."""
    return {name: [values[0], *values] for name, values in inputs.items()}


def main() -> None:
    """Measure, and write the record where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m softmaxkit.simulation.arrays")
    parser.add_argument("--cells", default="sky130", help="process (default: sky130)")
    parser.add_argument("--method", action="append", choices=[*METHODS], help="may be given again (default: all)")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="a spec as JSON, in place of methods")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record there")
    arguments = parser.parse_args()
    command = ["python", "-m", "softmaxkit.simulation.arrays", *sys.argv[1:]]
    specs = [METHODS[name]().for_hardware() for name in arguments.method or ALL_METHODS]
    if arguments.spec is not None:
        specs = [Spec.from_json(arguments.spec.read_text(encoding="utf-8"))]
    record = measure_arrays(arguments.cells, specs, command)
    if arguments.json is not None:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
