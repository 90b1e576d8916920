"""The arrays of an engine in cells: area, clock, and energy of a cycle, each output compared with the integers.

    python -m softmaxkit.simulation.arrays --json results/accelerator/arrays-sky130.json

measures both arrays of every method at a few sizes; `softmaxkit simulate` fits its own sizes to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softmaxkit.engine.arrays import QueryKeyArray, ValueArray
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.files import write_json
from softmaxkit.flow.scores import sampled_rows
from softmaxkit.formats import Array
from softmaxkit.methods import ALL_METHODS, method_class
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.simulation.driven import Driven, drive

MAX_KEYS = 4096
"""For which accumulators are wide enough."""

SIZES = tuple(EngineSizes(*sizes, MAX_KEYS) for sizes in ((2, 4, 8), (4, 4, 8), (2, 8, 8), (2, 4, 16)))
"""Rows, columns and channels that tell apart what a multiplier, a row or column, and a channel cost: each but the first
changes one."""

KEYS = 16
"""Keys of a query that energy is measured with."""

QUERIES = 12
"""Queries that energy is measured with."""

SPREAD = 32.0
"""Standard deviation of the codes of queries, keys and values, which are normal."""

ARRAYS = {"query-key": QueryKeyArray, "value": ValueArray}


class Words(NamedTuple):
    """What goes into an array, and what has to come out.

    Attributes:
        inputs: of each cycle, by port.
        valid, payload: ports of the output stream.
        expected: its payloads, in order.
    """

    inputs: dict[str, Sequence[int]]
    valid: str
    payload: str
    expected: list[int]


def measure_arrays(cells: str, methods: Sequence[str], command: Sequence[str]) -> dict[str, Any]:
    """Map both arrays of some methods at `SIZES`, and return the record.

    Raises:
        RuntimeError: an output of a netlist differs from the integers.
        ToolError: a tool is missing or failed.
    """
    results = []
    for method in methods:
        spec = method_class(method)().for_hardware()
        for sizes in SIZES:
            for name in ARRAYS:
                driven = measure_array(spec, name, sizes, cells)
                about = {"array": name, **vars(sizes), "cells": cells}
                results.append(make_result(spec, "hardware", **about, **driven.figures()))
                print(
                    f"{method} {name} {sizes.rows} x {sizes.columns}, {sizes.channels}: {driven.figures()}", flush=True
                )
    return make_record(command, 0, {"cells": cells, "queries": QUERIES, "keys": KEYS}, results)


def measure_array(spec: Spec, name: str, sizes: EngineSizes, cells: str) -> Driven:
    """Map an array of an engine and run its netlist on random codes.

    Args:
        spec: the method whose unit stands beside it.
        name: one of `ARRAYS`.
        sizes: of the engine.
        cells: process.

    Raises:
        RuntimeError: an output differs from the integers.
        ToolError: a tool is missing or failed.
    """
    attention = Attention.of(spec, sizes.channels)
    unit = spec.unit(sizes.rows, attention.constants, max_row=sizes.max_keys)
    array = ARRAYS[name](attention, sizes, unit)
    words = (_of_scores if name == "query-key" else _of_values)(attention, sizes, unit)
    driven = drive(array, words.inputs, cells)
    given = [
        payload
        for valid, payload in zip(driven.outputs[words.valid], driven.outputs[words.payload], strict=True)
        if valid
    ]
    wrong = sum(one != other for one, other in zip(given, words.expected, strict=False))
    if wrong or len(given) < len(words.expected) // 2:
        raise RuntimeError(f"{wrong} of {len(given)} outputs of the {name} array differ from the integers")
    return driven


def _of_scores(attention: Attention, sizes: EngineSizes, unit: Any) -> Words:
    """Return queries that meet `KEYS` keys each, and their scores."""
    random = np.random.default_rng(0)
    queries, keys = _codes(random, QUERIES, sizes.channels), _codes(random, KEYS, sizes.channels)
    words = sizes.beats(KEYS) * sizes.steps
    cycles = words * QUERIES
    bits = sizes.max_keys.bit_length()
    width = 8 * sizes.columns
    payloads = []
    for cycle in range(cycles):
        query, step = cycle // words, cycle % sizes.steps
        codes = queries[query, step * sizes.columns :][: sizes.columns]
        payloads.append(_packed(codes, 8) | KEYS << width | (step == sizes.steps - 1) << (width + bits))
    scores = attention.scores(queries, keys)
    beats = [row[beat : beat + sizes.rows] for row in scores for beat in range(0, KEYS, sizes.rows)]
    code, full = unit.code_shape.width, (1 << sizes.rows) - 1
    last = sizes.beats(KEYS) - 1
    expected = [
        _packed(beat, code) | full << (code * sizes.rows) | (place % (last + 1) == last) << ((code + 1) * sizes.rows)
        for place, beat in enumerate(beats)
    ]
    inputs = {
        "queries_valid": [1] * cycles,
        "queries_payload": payloads,
        "scores_ready": [1] * cycles,
        "keys_data": _memory(keys, sizes, cycles, 1),
    }
    return Words(_after_reset(inputs), "scores_valid", "scores_payload", expected)


def _of_values(attention: Attention, sizes: EngineSizes, unit: Any) -> Words:
    """Return rows of probabilities of real scores, as the unit gives them, and the outputs."""
    random = np.random.default_rng(0)
    values = _codes(random, KEYS, sizes.channels)
    spec, constants = attention.spec, attention.constants
    results = spec.golden(sampled_rows(spec, constants, QUERIES, KEYS).codes, None, constants)
    outputs = attention.outputs(spec.weights(results) @ values)
    words = sizes.beats(KEYS) * sizes.steps
    cycles, width = words * QUERIES, unit.result_bits * sizes.rows
    payloads = []
    for cycle in range(cycles):
        query, beat = cycle // words, cycle % words // sizes.steps
        codes = results[query, beat * sizes.rows :][: sizes.rows]
        payloads.append(_packed(codes, unit.result_bits) | (beat == sizes.beats(KEYS) - 1) << width)
    expected = [
        _packed(output[step * sizes.columns :][: sizes.columns], 8) | (step == sizes.steps - 1) << (8 * sizes.columns)
        for output in outputs
        for step in range(sizes.steps)
    ]
    inputs = {
        "results_valid": [int(cycle % sizes.steps == 0) for cycle in range(cycles)],
        "results_payload": payloads,
        "outputs_ready": [1] * cycles,
        "values_data": _memory(values, sizes, cycles, 2),  # a result first goes through a queue
    }
    return Words(_after_reset(inputs), "outputs_valid", "outputs_payload", expected)


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
    parser.add_argument("--method", action="append", choices=ALL_METHODS, help="may be given again (default: all)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record there")
    arguments = parser.parse_args()
    command = ["python", "-m", "softmaxkit.simulation.arrays", *sys.argv[1:]]
    record = measure_arrays(arguments.cells, arguments.method or ALL_METHODS, command)
    if arguments.json is not None:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
