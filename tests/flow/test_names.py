"""Several units in one design: module names are unique, and each unit works as it does alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cases import BY_METHOD

from softmaxkit.flow.export import export
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.simulate import TOP, Verilated, can_verilate
from softmaxkit.flow.tools import call, need
from softmaxkit.flow.vectors import pack, stream, unpack
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods import METHODS, method_class

pytestmark = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

LOADABLE = next(method for method, cases in BY_METHOD.items() if cases.proof.numbers)


def written(folder: Path, name: str, method: str, head: int = 0) -> None:
    """Write the folder of a unit, with external memories if the method has that storage."""
    spec = method_class(method)()
    constants = spec.examples()[head]
    storage = "memory" if "memory" in spec.storages else "flip-flops"
    unit = spec.unit(2, constants, max_row=8, storage=storage)
    export(unit, name, folder, [(constants, random_rows(unit, constants, 20, np.random.default_rng(0)))])


def modules(files: list[Path]) -> Iterator[str]:
    for file in files:
        yield from re.findall(r"^module (\w+)", file.read_text(), re.MULTILINE)


def check_together(folders: list[Path], work: Path) -> None:
    """Check that all modules, except benches and proofs, can be read and elaborated under one top module."""
    files = [file for folder in folders for file in sorted(folder.glob("*.sv"))]
    names = list(modules(files))
    assert len(names) == len(set(names))
    tops = [folder.name for folder in folders]
    assert all(name.startswith(tuple(tops)) for name in names)
    (work / "all.sv").write_text("module all;\n" + "".join(f"  {top} u_{top} ();\n" for top in tops) + "endmodule\n")
    design = [file for file in files if not file.stem.endswith(("_tb", "_formal", "_cocotb"))]
    lint = [need("verilator"), "--lint-only", "-Wno-lint", "-Wno-style", "--top-module", "all"]
    call([*lint, *design, "all.sv"], work, "reading all modules")
    plain = " ".join(str(file.relative_to(work)) for file in design if not file.stem.endswith("_sva"))
    script = f"read_verilog -sv {plain} all.sv; hierarchy -check -top all"
    call([need("yosys"), "-q", "-p", script], work, "reading all modules")


def test_two_heads_of_one_method(tmp_path: Path) -> None:
    folders = [tmp_path / f"layer0_head{head}" for head in range(2)]
    for head, folder in enumerate(folders):
        written(folder, folder.name, LOADABLE, head)
    check_together(folders, tmp_path)


@pytest.mark.slow
def test_all_methods(tmp_path: Path) -> None:
    folders = [tmp_path / f"chip_{method}" for method in METHODS]
    for folder, method in zip(folders, METHODS, strict=True):
        written(folder, folder.name, method)
    check_together(folders, tmp_path)


def test_two_heads_at_once() -> None:
    """Both accept the same rows, and each returns the results of its own constants."""
    spec = next(iter(BY_METHOD[LOADABLE].narrow.values())).spec
    units = [spec.unit(2, constants, max_row=8) for constants in spec.examples()[:2]]
    rows = random_rows(units[0], units[0].constants, 400, np.random.default_rng(0))
    given = [stream(unit, [(unit.constants, rows)]) for unit in units]
    bits = len(units[0].results.payload.as_value())
    both = dataclasses.replace(
        given[0], results=pack([(unpack(run.results, bits, 1), bits) for run in given]), result_bits=0
    )
    assert (given[0].results != given[1].results).any()
    instances = "".join(
        f"""
  wire ready{at}, valid{at};
  head{at} head{at}(.clk(clk), .rst(rst), .scores_payload(scores_payload), .scores_ready(ready{at}),
    .scores_valid(scores_valid & ready{1 - at}), .results_payload(results_payload[{bits * at} +: {bits}]),
    .results_valid(valid{at}), .results_ready(results_ready & valid{1 - at}));"""
        for at in range(2)
    )
    top = f"""module {TOP}(input clk, input rst, input [{len(units[0].scores.payload.as_value()) - 1}:0] scores_payload,
  input scores_valid, output scores_ready, output [{2 * bits - 1}:0] results_payload, output results_valid,
  input results_ready);{instances}
  assign scores_ready = ready0 & ready1;
  assign results_valid = valid0 & valid1;
endmodule
"""
    verilog = "".join(to_verilog(unit, f"head{at}") for at, unit in enumerate(units))
    simulator = Verilated(units[0], fast=False, verilog=verilog + top)
    for traffic in (Traffic(), Traffic(gap=64, longest_gap=3, stall=64, longest_stall=3)):
        outcome = simulator.run(both, traffic)
        assert not outcome.faults(both), outcome.faults(both)
        assert outcome.compared == len(both.results)
