"""Synthesised arrays of an engine: area, clock and energy per cycle, with outputs checked against the golden model.

    python -m softmaxkit.simulation.arrays --json results/accelerator/arrays-sky130.json

measures both arrays of every method at a few sizes, and the units of the deferred pipeline, which `synth` does not
cover; `softmaxkit simulate` fits these figures to the sizes that it needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring

from softmaxkit.engine.engine import PIPELINES, Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.files import write_json
from softmaxkit.flow.cells.processes import PROCESSES
from softmaxkit.methods import ALL_METHODS, METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.script import one_line_errors
from softmaxkit.simulation.driven import NetlistRun, drive
from softmaxkit.simulation.pipelines import pipelines_of
from softmaxkit.simulation.stimuli import KEYS, QUERIES, Sample, of_scores, of_unit, of_values

Size = tuple[int, int, int]
"""Rows, columns and channels."""

SIZES: tuple[Size, ...] = ((2, 2, 4), (4, 2, 8), (2, 4, 16), (4, 4, 16), (4, 4, 64))
"""Sizes that separate the costs of a multiplier, a row or column, and a channel in the fit. All need several cycles per
beat of keys, as the arrays of large engines do; arrays of a single cycle are built differently."""

LANES = 16
"""Default number of lanes of a deferred unit."""

MAX_KEYS = 4096
"""Keys for which the accumulators are sized."""

INSIDE = 16
"""Maximum number of outputs that may still be in the pipeline when the inputs end."""

STEP = 0.03
"""Quantisation step of queries and keys; not a power of two, so that scaling the scores takes a multiplier."""

QUERY_KEY, VALUE, UNIT = ARRAYS = ("query-key", "value", "deferred unit")


class Back(wiring.Component):
    """The PV array of an engine with the stage that converts its sums to outputs."""

    def __init__(self, engine: Engine) -> None:
        self.value, self.output = engine.value, engine.output
        inner, outer = engine.value.signature.members, engine.output.signature.members
        ports = {name: member for name, member in inner.items() if name != "sums"}
        ports |= {name: member for name, member in outer.items() if name != "sums"}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Connect the array to the output stage."""
        m = Module()
        m.submodules.value, m.submodules.output = value, output = self.value, self.output
        wiring.connect(m, value.sums, output.sums)
        for name in self.signature.members:
            inner = value if name in ("weights", "values") else output
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(inner, name))
        return m


def measure_arrays(
    cells: str,
    specs: Sequence[Spec],
    command: Sequence[str],
    names: Sequence[str] = ARRAYS,
    pipelines: Sequence[str] = PIPELINES,
    sizes: Sequence[Size] = SIZES,
    lanes: int = LANES,
    clock: float | None = None,
) -> dict[str, Any]:
    """Synthesise and measure the arrays, and any deferred units, of several specs; return the record.

    Args:
        cells: the process, e.g. "sky130".
        specs: the specs of the softmax units between the arrays.
        command: the command line, for the record.
        names: which of `ARRAYS` to measure.
        pipelines: which pipelines to measure.
        sizes: array sizes to measure.
        lanes: lanes of a deferred unit.
        clock: the target clock period in ns; None for that of the process.

    Raises:
        RuntimeError: an output of a netlist differs from the golden model.
        ToolError: a tool is missing or failed.
        ValueError: the clock is not positive.
    """
    results = []
    for spec in specs:
        for pipeline, name, engine in _parts(spec, sizes, lanes):
            if name not in names or pipeline not in pipelines:
                continue
            driven = measure_array(engine, name, cells, clock)
            about = {"array": name, "pipeline": pipeline, **vars(engine.sizes), "cells": cells}
            if name == UNIT:
                about["pace"] = engine.unit.pace
            results.append(make_result(spec, "hardware", **about, **driven.figures()))
            print(f"{spec.name} {pipeline} {name} {vars(engine.sizes)}: {driven.figures()}", flush=True)
    return make_record(command, 0, {"cells": cells, "queries": QUERIES, "keys": KEYS}, results)


def _parts(spec: Spec, sizes: Sequence[Size], lanes: int) -> Iterator[tuple[str, str, Engine]]:
    """Yield (pipeline, part, engine) for each part of a method to be measured.

    The QK array is the same in all pipelines, so only the first yields it.
    """
    for index, pipeline in enumerate(pipelines_of(spec)):
        engines = [_engine(spec, pipeline, *size) for size in sizes]
        arrays = (VALUE,) if index else (QUERY_KEY, VALUE)
        yield from ((pipeline, name, engine) for engine in engines for name in arrays)
        if pipeline == "deferred":
            yield pipeline, UNIT, _engine(spec, pipeline, lanes, 2, 4)


def _engine(spec: Spec, pipeline: str, rows: int, columns: int, channels: int) -> Engine:
    attention = Attention.of(spec, channels, query_step=STEP, key_step=STEP, scale=1.0)
    return Engine(attention, rows, columns, MAX_KEYS, pipeline=pipeline)


def measure_array(engine: Engine, name: str, cells: str, clock: float | None = None) -> NetlistRun:
    """Synthesise a part of an engine, simulate its netlist on random codes, and measure it.

    Args:
        engine: the hardware.
        name: one of `ARRAYS`.
        cells: the process, e.g. "sky130".
        clock: the target clock period in ns; None for that of the process.

    Raises:
        RuntimeError: an output differs from the golden model.
        ToolError: a tool is missing or failed.
        ValueError: the clock is not positive.
    """
    words = {QUERY_KEY: of_scores, VALUE: of_values, UNIT: of_unit}[name](engine, Sample.of(engine))
    part = Back(engine) if name == VALUE else engine.query_key if name == QUERY_KEY else engine.unit
    driven = drive(part, words.inputs, cells, clock)
    # Verilog port names that were already taken have a trailing "_".
    ports = {name.rstrip("_"): values for name, values in driven.outputs.items()}
    stream = zip(ports[f"{words.outputs}_valid"], ports[f"{words.outputs}_payload"], strict=True)
    payloads = [payload for valid, payload in stream if valid]
    wrong = sum(payload != expected for payload, expected in zip(payloads, words.expected, strict=False))
    if wrong:
        raise RuntimeError(f"{wrong} of {len(payloads)} outputs of the {name} array differ from the golden model")
    if not 0 <= len(words.expected) - len(payloads) <= INSIDE:
        raise RuntimeError(f"the {name} array produced {len(payloads)} outputs, expected {len(words.expected)}")
    return driven


def _size(text: str) -> Size:
    rows, columns, channels = map(int, text.split("x"))
    return rows, columns, channels


def main() -> None:
    """Run the command: measure, and write the record to `--json`."""
    parser = argparse.ArgumentParser(prog="python -m softmaxkit.simulation.arrays")
    parser.add_argument("--cells", default="sky130", choices=[*PROCESSES], help="process (default: sky130)")
    parser.add_argument("--method", action="append", choices=[*METHODS], help="repeatable (default: all)")
    parser.add_argument("--array", action="append", choices=ARRAYS, help="repeatable (default: all)")
    parser.add_argument("--pipeline", action="append", choices=PIPELINES, help="repeatable (default: all)")
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="ROWSxCOLUMNSxCHANNELS",
        help=f"array size; repeatable (default: {', '.join('x'.join(map(str, size)) for size in SIZES)})",
    )
    parser.add_argument("--lanes", type=int, default=LANES, help=f"of a deferred unit (default: {LANES})")
    parser.add_argument("--clock", type=float, help="target clock period in ns (default: that of the process)")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="a spec as JSON, instead of --method")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record to this file")
    arguments = parser.parse_args()
    command = ["python", "-m", "softmaxkit.simulation.arrays", *sys.argv[1:]]
    with one_line_errors(parser):
        specs = [METHODS[name]().for_hardware() for name in arguments.method or ALL_METHODS]
        if arguments.spec is not None:
            specs = [Spec.from_json(arguments.spec.read_text(encoding="utf-8"))]
        chosen = (arguments.array or ARRAYS, arguments.pipeline or PIPELINES, arguments.size or SIZES, arguments.lanes)
        record = measure_arrays(arguments.cells, specs, command, *chosen, clock=arguments.clock)
        if arguments.json is not None:
            write_json(arguments.json, record)


if __name__ == "__main__":
    main()
