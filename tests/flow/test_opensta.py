"""OpenSTA with the script and constraints of an exported folder: setup, hold and combinational paths equal ours."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from netlists import PDK, full_library, mapped, softermax

from softmaxkit.flow.cells.library import Arc, Constraint, Library
from softmaxkit.flow.cells.processes import PROCESSES, library_of
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export import export
from softmaxkit.flow.mapping import Mapped, map_design
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.paths import PortPath, combinational_paths
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.sources import Source
from softmaxkit.flow.timing import Timing, analyse
from softmaxkit.flow.tools import find
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell.options import ShellOptions

pytestmark = [
    pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA (Debian: apt install opensta)"),
    pytest.mark.skipif(find("yosys") is None, reason="needs Yosys"),
]
NAME = "unit_under_test"
CLOSE = 1e-5
"""Tolerance relative to the period: OpenSTA reads six digits of each library value, and computes in float32."""

QUICK = {("consmax", "latches")}


def every_unit() -> Iterator[Any]:
    """Yield every method with each of its kinds of storage."""
    for method in METHODS:
        for storage in method_class(method).storages:
            marks = [] if (method, storage) in QUICK else pytest.mark.slow
            yield pytest.param(method, storage, marks=marks)


class Slacks(NamedTuple):
    """Report of OpenSTA: the smallest slacks in ns, and its whole output."""

    setup: float
    hold: float
    printed: str


def unit_of(method: str, storage: str) -> SoftmaxUnit:
    """Return a unit with one lane for short rows."""
    return method_class(method)().unit(1, None, storage=storage, max_row=8)


def export_of(unit: SoftmaxUnit, folder: Path, constraints: Constraints, shell: ShellOptions | None = None) -> None:
    """Export a unit."""
    constants = unit.spec.examples()[0]
    rows = random_rows(unit, constants, 20, np.random.default_rng(0))
    export(unit, NAME, folder, [(constants, rows)], constraints, shell=shell)


def put(folder: Path, design: Mapped) -> None:
    """Write a netlist and its cells to a folder."""
    (folder / "netlist.v").write_text(design.to_verilog())
    (folder / "cells.lib").write_text(to_liberty(design.netlist.library, analysis=True))


def opensta(folder: Path, period: float, before: str = "", after: str = "", **variables: str) -> Slacks:
    """Run the folder's script, with further commands before and after it."""
    (folder / "more.tcl").write_text(before + (folder / f"{NAME}_sta.tcl").read_text() + after)
    environment = {**os.environ, "LIBERTY": "cells.lib", "NETLIST": "netlist.v", "TOP": "unit", **variables}
    done = subprocess.run(
        ["sta", "-no_splash", "-exit", "more.tcl"],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        timeout=600,
    )
    # OpenSTA continues after errors, and still reports a slack.
    assert not re.search(r"\b[Ee]rror\b|syntax|black box|no clock|unconstrained", done.stdout), done.stdout
    setup, hold = (
        [
            (group, float(slack))
            for group, slack in re.findall(r"Path Group: (\S+).*?(-?[\d.]+)\s+slack", part, re.DOTALL)
        ]
        for part in done.stdout.partition("More:")[0].split("Hold:")
    )
    # The 2019 release checks a clock gate against a clock edge that is one period too early.
    late = [slack - period if "gating" in group and slack > period / 2 else slack for group, slack in hold]
    return Slacks(min(slack for _, slack in setup), min(late), done.stdout)


def same(theirs: Slacks, ours: Timing, constraints: Constraints, part: float = CLOSE) -> None:
    """Check that setup and hold slacks agree within a fraction of the period."""
    period, off = constraints.period, constraints.uncertainty
    assert theirs.setup == pytest.approx(ours.slack(period) - off, abs=part * period), theirs.printed
    assert theirs.hold == pytest.approx(ours.hold - off, abs=part * period), theirs.printed


def inside(netlist: Netlist, constraints: Constraints) -> Timing:
    """Analyse a netlist under the constraints of its folder."""
    return analyse(netlist, constraints.input_slew, constraints.load, *constraints.delays)


FROM_LATCHES = """
puts "More:"
report_checks -from [all_registers -level_sensitive -clock_pins] -digits 6
"""

PAIRS = r"""
puts "More:"
proc bits_of_ports {bits} {
  foreach bit $bits { dict lappend ports [regsub {\[\d+\]$} [get_property $bit full_name] ""] $bit }
  return $ports
}
set outputs [bits_of_ports [all_outputs]]
dict for {from starts} [bits_of_ports [all_inputs]] {
  dict for {to ends} $outputs {
    puts "from $from to $to"
    report_checks -from $starts -to $ends -format end
  }
}
"""


def port_paths(printed: str) -> list[PortPath]:
    """Return the pairs of ports between which OpenSTA finds paths."""
    pairs = re.findall(r"^from (\S+) to (\S+)\n(?!No paths)", printed, re.MULTILINE)
    return sorted(PortPath(*pair) for pair in pairs)


@pytest.mark.parametrize(("method", "storage"), every_unit())
def test_setup_hold_and_paths(method: str, storage: str, tmp_path: Path) -> None:
    constraints = Constraints(period=8.0, uncertainty=0.125)
    unit = unit_of(method, storage)
    export_of(unit, tmp_path, constraints)
    for wire, more in ((0.0, PAIRS), (PROCESSES["sky130"].wire, "")):
        design = mapped(unit, replace(library_of("sky130"), wire=wire))
        put(tmp_path, design)
        theirs = opensta(tmp_path, constraints.period, after=more, WIRE=str(wire))
        same(theirs, inside(design.netlist, constraints), constraints)
        if more:
            paths = combinational_paths({NAME: (tmp_path / f"{NAME}.sv").read_text()})[NAME]
            assert port_paths(theirs.printed) == paths


@pytest.mark.slow
def test_every_variable_matters_and_faults_are_detected(tmp_path: Path) -> None:
    """Every SDC variable has an effect; slower cells, longer hold times and missing exceptions are detected."""
    period = 6.0
    export_of(softermax("latches"), tmp_path, Constraints(period))
    design = mapped(softermax("latches"), replace(library_of("sky130"), wire=0.0))
    put(tmp_path, design)

    def theirs(library: str = "cells.lib", **chosen: Any) -> Slacks:
        before = "".join(f"set {name} {value}\n" for name, value in chosen.items())
        return opensta(tmp_path, period, before, FROM_LATCHES, LIBERTY=library)

    slacks = set()
    for chosen in (
        {"input_delay": 1.0},
        {"uncertainty": 0.3},
        *({"input_delay": 4.5, "output_delay": 0.5, "input_slew": slew} for slew in (0.05, 0.5)),
        *({"input_delay": 0.5, "output_delay": 5.0, "load": load} for load in (0.01, 0.1)),
    ):
        constraints = Constraints(period, **chosen)
        ours = inside(design.netlist, constraints)
        same(theirs(**chosen), ours, constraints)
        slacks.add(round(ours.slack(period) - constraints.uncertainty, 4))
    assert len(slacks) == 6
    driven = theirs(input_delay=4.5, output_delay=0.5, driving_cell="sky130_fd_sc_hd__inv_1")
    assert round(driven.setup, 4) not in slacks

    ours, library = inside(design.netlist, Constraints(period)), design.netlist.library
    (tmp_path / "slower.lib").write_text(to_liberty(with_hold_times(slowed(library, 1.2), 0.2), analysis=True))
    slower = theirs("slower.lib")
    assert slower.setup < ours.slack(period) - 0.02 * period
    assert slower.hold < ours.hold - 0.02

    def from_latches() -> float:
        (slack,) = re.findall(r"(-?[\d.]+)\s+slack", theirs().printed.partition("More:")[2])
        return float(slack)

    meant, sdc = from_latches(), tmp_path / f"{NAME}.sdc"
    sdc.write_text(re.sub(r"^set_max_delay.*\n", "", sdc.read_text(), flags=re.MULTILINE))
    assert from_latches() == pytest.approx(meant - period / 2, abs=CLOSE * period)


@pytest.mark.slow
def test_the_wrapper(tmp_path: Path) -> None:
    constraints = Constraints(period=8.0)
    export_of(unit_of("consmax", "latches"), tmp_path, constraints)
    top = f"{NAME}_axis"
    texts = {f"{name}.sv": (tmp_path / f"{name}.sv").read_text() for name in (NAME, top)}
    library = replace(library_of("sky130"), wire=0.0)
    (design,) = map_design(Source(top, texts), library, 5.0, ["small"])
    put(tmp_path, design)
    theirs = opensta(tmp_path, 8.0, after=PAIRS, TOP=top, INTERFACE=top)
    same(theirs, inside(design.netlist, constraints), constraints)
    assert port_paths(theirs.printed) == combinational_paths({name[:-3]: text for name, text in texts.items()})[top]


SHELLS = {
    "plain": ShellOptions(keep=True, status=True, tags=2),
    "sliced": ShellOptions(keep=True, register_slice="both"),
    "registers": ShellOptions(keep=True, row_length=True, status=True, axi_lite=True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "storage", "shell"),
    [
        ("consmax", "latches", "sliced"),
        ("exaq", "flip-flops", "registers"),
        ("softermax", "memory", "plain"),
        ("exact", "latches", "sliced"),
    ],
)
def test_the_shell(method: str, storage: str, shell: str, tmp_path: Path) -> None:
    """With a shell, the folder's constraints apply to it unless another module is chosen."""
    constraints = Constraints(period=12.0, uncertainty=0.25)
    export_of(unit_of(method, storage), tmp_path, constraints, SHELLS[shell])
    top = f"{NAME}_axi"
    texts = {f"{name}.sv": (tmp_path / f"{name}.sv").read_text() for name in (NAME, f"{NAME}_shell", top)}
    library = replace(library_of("sky130"), wire=0.0)
    (design,) = map_design(Source(top, texts), library, 5.0, ["small"])
    put(tmp_path, design)
    theirs = opensta(tmp_path, constraints.period, after=PAIRS, TOP=top)
    same(theirs, inside(design.netlist, constraints), constraints)
    assert port_paths(theirs.printed) == combinational_paths({top: "".join(texts.values())})[top]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "storage"), [("exaq", "latches"), ("softermax", "memory")])
def test_with_the_whole_library(method: str, storage: str, tmp_path: Path) -> None:
    """The original Liberty file: it has a default wire load, and conditions of which we use the worst."""
    constraints = Constraints(period=8.0)
    unit = unit_of(method, storage)
    export_of(unit, tmp_path, constraints)
    design = mapped(unit, replace(library_of("sky130"), wire=0.0))
    whole = design.netlist.with_library(replace(full_library("sky130"), wire=0.0))
    (path,) = sorted(PDK.glob("sky130*.lib.gz"))
    (tmp_path / "whole.lib").write_bytes(gzip.decompress(path.read_bytes()))
    put(tmp_path, design)
    theirs = opensta(tmp_path, constraints.period, LIBERTY="whole.lib")
    same(theirs, inside(whole, constraints), constraints, 0.02)


def slowed(library: Library, factor: float) -> Library:
    """Return a library whose cells are slower by a factor."""

    def slow(arc: Arc) -> Arc:
        rise, fall = (table._replace(values=table.values * factor) for table in (arc.rise, arc.fall))
        return arc._replace(rise=rise, fall=fall)

    cells = {name: replace(cell, arcs=tuple(map(slow, cell.arcs))) for name, cell in library.cells.items()}
    return replace(library, cells=cells)


def with_hold_times(library: Library, more: float) -> Library:
    """Return a library whose registers have longer hold times, by `more` ns."""

    def later(hold: Constraint) -> Constraint:
        rise, fall = (table._replace(values=table.values + more) for table in (hold.rise, hold.fall))
        return hold._replace(rise=rise, fall=fall)

    cells = {name: replace(cell, holds=tuple(map(later, cell.holds))) for name, cell in library.cells.items()}
    return replace(library, cells=cells)
