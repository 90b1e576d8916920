"""Simulators for units: Verilator, or Amaranth's own where there is no C++ compiler."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator as AmaranthSimulator
from amaranth.sim import SimulatorContext

from softmaxkit.blocks.storage import WordMemory
from softmaxkit.files import cache_folder, content_key, whole_folder
from softmaxkit.flow.outcome import Outcome, Traffic, read_outcome, write_stream
from softmaxkit.flow.tools import INSTALL, ToolError, call, missing_hardware, need, place_for_make
from softmaxkit.flow.vectors import Stream, unpack
from softmaxkit.flow.verilog import to_verilog

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Packed

TOP = "dut"
SHOWN = 100
"""Wrong beats that are kept; all are counted."""

PATIENCE = 20_000
"""Cycles without progress after which a simulation is abandoned."""


class Simulator(Protocol):
    """A way to run a unit."""

    name: str

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False) -> Outcome:
        """Drive the unit with a stream and compare its results; with `cycles`, record the cycle of each beat."""
        ...


class WithMemories(wiring.Component):
    """A unit with its external memories."""

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        self.memories: tuple[str, ...] = getattr(unit, "memories", ())
        ports = {name: member for name, member in unit.signature.members.items() if name not in self.memories}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
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
    """A unit compiled by Verilator; the program is cached by its content.

    Args:
        unit: a component with the streams `scores`, `results` and, if it is loadable, `configuration`.
        fault: edits the RTLIL of the design.
        waveform: file for the waveform of a run.
        fast: optimise for long runs; otherwise for short compilation.
        verilog: Verilog to simulate in place of the unit's own.

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
        harness = (files("softmaxkit.flow") / "harness.cpp").read_text(encoding="utf-8")
        defines = ["-DCONFIGURATION"] * ("configuration" in unit.signature.members)
        defines += ["-DWAVEFORM"] * (waveform is not None)
        folder = cache_folder() / "verilated" / content_key(verilog, harness, defines, self.optimisation)
        self.program = folder / "dut"
        if self.program.is_file():
            return
        verilator = need("verilator")
        for tool in ("perl", "make", "g++"):
            need(tool)
        with whole_folder(folder) as kept, place_for_make(kept) as work:
            (work / f"{TOP}.sv").write_text(verilog, encoding="utf-8")
            (work / "harness.cpp").write_text(harness, encoding="utf-8")
            command = [verilator, "--cc", "--exe", "--prefix", "Vdut", "--top-module", TOP]
            command += ["--Mdir", "build", "-O3", "--no-assert", "-Wno-fatal", "-Wno-lint"]
            command += ["--output-split", "0"]  # split files need the compiler that Verilator was built with
            command += ["--trace"] * (waveform is not None)
            command += ["-CFLAGS", " ".join(["-g0", *defines]), "-o", "../dut", f"{TOP}.sv", "harness.cpp"]
            call(command, work, "reading the Verilog")
            self._compile(work / "build", verilator)

    def _compile(self, build: Path, verilator: str) -> None:
        """Compile the model; Verilator's runtime, which takes longest, is compiled once for all units."""
        version = call([verilator, "--version"], build, "asking for its version")
        kept = cache_folder() / "verilated" / f"runtime-{content_key(version, self.waveform is not None)}"
        for file in kept.glob("*.o"):
            shutil.copy(file, build)
        level = [f"OPT_FAST={self.optimisation}", f"OPT_SLOW={self.optimisation}"]
        call([need("make"), "-j", "2", "-f", "Vdut.mk", *level], build, "compiling the simulation")
        if not kept.is_dir():
            with whole_folder(kept) as folder:
                for file in build.glob("verilated*.o"):
                    shutil.copy(file, folder)

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False, folder: Path | None = None) -> Outcome:
        """Drive the unit; see `Simulator`. Files go to `folder` if it is given."""
        with tempfile.TemporaryDirectory() as temporary:
            work = folder or Path(temporary)
            write_stream(work / "stream", stream)
            numbers = [traffic.gap, traffic.longest_gap, traffic.stall, traffic.longest_stall, traffic.seed]
            log = str(work / "log") if cycles else "-"
            command = [self.program, "stream", stream.result_bits, *numbers, PATIENCE, log, self.waveform or "-"]
            printed = call([str(word) for word in command], work, "simulating")
            outcome = read_outcome(printed)
            if cycles:
                times = np.fromfile(work / "log", np.uint64)
                outcome.taken_at, outcome.given_at = times[: outcome.taken], times[outcome.taken :]
        return outcome


class Simulated:
    """A unit in Amaranth's own simulator, which is slow but needs no other tools.

    Args:
        unit: as for `Verilated`, but without latches.

    Raises:
        ToolError: the unit has latches, which this simulator does not support.
    """

    name = "amaranth"

    def __init__(self, unit: wiring.Component) -> None:
        if getattr(unit, "storage", "") == "latches":
            raise ToolError(f"a unit with latches needs Verilator: {INSTALL}, and a C++ compiler")
        self.unit = unit

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False) -> Outcome:
        """Drive the unit; see `Simulator`."""
        top, outcome = WithMemories(copy.copy(self.unit)), Outcome()
        random = np.random.default_rng(traffic.seed)
        scores, results = _payloads(stream.scores), _payloads(stream.results)
        writes = list(zip(stream.writes[:, 0].tolist(), _payloads(stream.writes[:, 1:]), strict=True))
        times: tuple[list[int], list[int]] = ([], [])

        async def bench(context: SimulatorContext) -> None:
            source, sink = top.scores, top.results
            loads: Any = top.configuration if writes else None
            offered = offered_write = False
            held, pauses, quiet = None, [0, 0], 0
            while quiet < 2000 and not (outcome.compared == len(results) and quiet > 50):
                for side, (chance, longest) in enumerate(
                    ((traffic.gap, traffic.longest_gap), (traffic.stall, traffic.longest_stall))
                ):
                    again = random.integers(1, longest, endpoint=True) if random.integers(256) < chance else 0
                    pauses[side] = pauses[side] - 1 if pauses[side] else int(again)
                if not offered and outcome.taken < len(scores) and not pauses[0]:
                    offered = True
                    context.set(Value.cast(source.payload), scores[outcome.taken])
                context.set(source.valid, offered)
                if not offered_write and outcome.written < len(writes) and writes[outcome.written][0] <= outcome.taken:
                    offered_write = True
                    context.set(Value.cast(loads.payload), writes[outcome.written][1])
                if loads:
                    context.set(loads.valid, offered_write)
                context.set(sink.ready, not pauses[1])
                quiet += 1
                if offered and context.get(source.ready):
                    offered, quiet, outcome.taken = False, 0, outcome.taken + 1
                    times[0].append(outcome.cycles)
                if offered_write and context.get(loads.ready):
                    offered_write, quiet, outcome.written = False, 0, outcome.written + 1
                got = context.get(Value.cast(sink.payload)) if context.get(sink.valid) else None
                outcome.unstable += held is not None and got != held
                held = got if pauses[1] else None
                if got is not None and not pauses[1]:
                    times[1].append(outcome.cycles)
                    if outcome.compared == len(results):
                        outcome.extra += 1
                    else:
                        quiet = 0
                        self._compare(stream, outcome, got, results[outcome.compared])
                outcome.cycles += 1
                await context.tick()

        simulator = AmaranthSimulator(top)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        if cycles:
            outcome.taken_at, outcome.given_at = (np.asarray(log, np.uint64) for log in times)
        return outcome

    def _compare(self, stream: Stream, outcome: Outcome, got: int, expected: int) -> None:
        if got != expected:
            outcome.mismatches += 1
            words = stream.results.shape[1]
            beat = np.frombuffer(got.to_bytes(4 * words, "little"), "<u4")
            lanes = 32 * words // stream.result_bits if stream.result_bits else 0
            pair = np.stack((beat, stream.results[outcome.compared]))
            differing = np.count_nonzero(np.diff(unpack(pair, stream.result_bits, lanes), axis=0)) if lanes else 0
            outcome.wrong_results += max(int(differing), 1)
            if len(outcome.wrong) < SHOWN:
                outcome.wrong.append((outcome.compared, beat))
        outcome.compared += 1


def can_verilate() -> bool:
    """Return whether everything that Verilator needs is installed."""
    return not missing_hardware()


def _payloads(words: Packed) -> list[int]:
    """Return packed payloads as integers."""
    return [int.from_bytes(row.astype("<u4").tobytes(), "little") for row in words]
