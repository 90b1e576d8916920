"""Exports an engine as a folder: Verilog, a test bench with vectors from golden attention, and a README."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import softmaxkit
from softmaxkit.engine import cycles
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.vectors import engine_stream, random_head
from softmaxkit.files import whole_folder, write_text
from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export import PARAMETERS_FILE, about, templates_of
from softmaxkit.flow.export_context import timing_context
from softmaxkit.flow.identifiers import check_name
from softmaxkit.flow.interface import memory_facts, unit_ports
from softmaxkit.flow.paths import combinational_paths
from softmaxkit.flow.vectors import Stream, hexadecimal
from softmaxkit.flow.verilog import to_commented_verilog

TEMPLATES = {
    "tb.sv": "{name}_tb.sv",
    "engine_sva.sv": "{name}_sva.sv",
    "unit.sdc": "{name}.sdc",
    "sta.tcl": "{name}_sta.tcl",
    "lint.vlt": "lint.vlt",
    "Makefile": "Makefile",
    "README.md": "README.md",
}

SEED = 1
"""Seed of the random queries, keys and values."""

OUTPUTS = 2048
"""Least number of outputs that the test bench compares."""


def export_engine(engine: Engine, name: str, folder: Path, constraints: Constraints = Constraints()) -> None:
    """Write the folder of an engine, completely or not at all.

    Args:
        engine: baked or loadable.
        name: of the top module; the names of files and of the other modules begin with it.
        folder: to write; missing or empty.
        constraints: timing constraints; the test bench has the same clock period.

    Raises:
        ValueError: the name cannot be that of a module, or the engine's cycles have no recurrence.
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    check_name(name)
    vectors, facts = _vectors(engine), _facts(engine, name)
    verilog = to_commented_verilog(engine, name)
    templates = templates_of("softmaxkit.engine", "softmaxkit.flow")
    ports, prefixes = unit_ports(engine), tuple(f"{memory}_" for memory in engine.memories)
    streams = ("queries", "outputs", "configuration")
    bits = {stream: len(getattr(engine, stream).payload.as_value()) for stream in streams}
    top = {"name": name, "clock": "clk", "ports": facts["ports"]}
    context: dict[str, Any] = {
        **facts,
        "title": engine.attention.spec.title,
        "about": about(Engine),
        "cycles": (inspect.getdoc(cycles) or "").partition("\n\n")[2],
        "score_depth": engine.query_key.depth,
        "output_depth": engine.value.depth,
        "apart": engine.query_interval,
        "drains_before_shorter_rows": engine.drains_before_shorter_rows,
        "bits": bits,
        "streams": bits.items(),
        "patience": 20_000 + 4 * facts["first"],
        "memory_ports": [port for port in ports if port.name.startswith(prefixes)],
        "stream_ports": [port for port in ports if not port.name.startswith(prefixes)],
        **timing_context(constraints),
        "interfaces": [top],
        "top": top,
        "combinational_paths": combinational_paths({name: verilog}),
        "sram": None,
        "joined": None,
    }
    files = TEMPLATES | ({"memory.sv": "{name}_memory.sv"} if engine.memories else {})
    with whole_folder(folder) as work:
        write_text(work / f"{name}.sv", verilog)
        for template, file in files.items():
            write_text(work / file.format(name=name), templates.get_template(f"{template}.j2").render(context))
        write_text(work / "queries.hex", hexadecimal(vectors.scores, bits["queries"]))
        write_text(work / "outputs.hex", hexadecimal(vectors.results, bits["outputs"]))
        after = [f"{int(beats):x} " for beats in vectors.writes[:, 0]]
        lines = hexadecimal(vectors.writes[:, 1:], bits["configuration"]).splitlines(keepends=True)
        write_text(work / "writes.hex", "".join(map("".join, zip(after, lines, strict=True))))
        write_text(work / PARAMETERS_FILE, json.dumps(facts, indent=1) + "\n")


def _vectors(engine: Engine) -> Stream:
    """Return the vectors of the test bench: four loads, alternately with queries of a prompt and in any order."""
    random, most = np.random.default_rng(SEED), engine.sizes.max_keys
    count = -(-OUTPUTS // (4 * engine.sizes.channels)) + 2
    prompt = most - min(count, most) + 1 + np.arange(min(count, most))
    orders = [prompt, random.integers(0, most, count, endpoint=True)]
    return engine_stream(engine, [random_head(engine, attended, random) for attended in orders * 2])


def _facts(engine: Engine, name: str) -> dict[str, Any]:
    """Return the contents of `parameters.json`, ready for JSON."""
    attention, sizes = engine.attention, engine.sizes
    longest = cycles.times(engine, [sizes.max_keys] * 2)
    return {
        "schema": attention.spec.to_json()["schema"],
        "softmaxkit": softmaxkit.__version__,
        "name": name,
        "method": attention.spec.method,
        "variant": attention.spec.variant,
        "spec": attention.spec.to_json(),
        "constants": attention.constants.to_json(),
        **asdict(sizes),
        "steps": sizes.steps,
        "pipeline": engine.pipeline,
        "storage": engine.storage,
        "depth": engine.unit.depth,
        "multiplier": attention.multiplier,
        "score_places": attention.score_places,
        "output_places": attention.output_places,
        "output_step": 1.0 if engine.pipeline == "deferred" else attention.output_step,
        "score_accumulator_bits": engine.query_key.sum_bits,
        "value_accumulator_bits": engine.value.sum_bits,
        "key_bits": len(engine.queries.p.keys),
        "address_bits": engine.address_bits,
        "data_bits": engine.data_bits,
        "writes": engine.writes(sizes.max_keys),
        "first": longest[0].first,
        "last": longest[0].last,
        "interval": longest[1].first - longest[0].first,
        **_registers(engine),
        "ports": [port._asdict() for port in unit_ports(engine)],
        "memories": [memory_facts(engine, memory) for memory in engine.memories],
    }


def _registers(engine: Engine) -> dict[str, Any]:
    """Return the registers of loadable constants at their addresses in the engine, and the writes that load them."""
    registers, base = engine.unit.registers, 2 * engine.sizes.words
    if registers is None:
        return {"registers": [], "constant_writes": []}
    return {
        "registers": [
            {
                "name": register.name,
                "address": base + registers.address(register.name),
                "words": register.depth,
                "bits": register.shape.width,
                "signed": register.shape.signed,
                "meaning": register.meaning,
            }
            for register in registers.registers
        ],
        "constant_writes": [(base + at, word) for at, word in engine.unit.writes(engine.attention.constants)],
    }
