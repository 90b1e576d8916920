from __future__ import annotations

import os
import shutil
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit import Sigmoid
from softmaxkit.files import cache_folder
from softmaxkit.flow import tools
from softmaxkit.flow.simulate import Outcome, Traffic, Verilated, read_outcome
from softmaxkit.flow.tools import ToolError
from softmaxkit.flow.vectors import Stream, pack

verilator = pytest.mark.skipif(
    not all(tools.find(tool) for tool in ("yosys", "verilator", "perl", "make", "g++")),
    reason="needs Yosys, Verilator and a C++ compiler",
)


class Kind(IntEnum):
    """What the faulty unit does with a beat."""

    PASS = 0
    DROP = 1
    DOUBLE = 2
    CHANGE = 3
    WITHDRAW = 4
    HANG = 5
    WRONG = 6
    ENDLESS = 7


class Faulty(wiring.Component):
    """A unit that forwards beats, with the fault that each beat asks for, and accepts the writes that ask for it."""

    def __init__(self) -> None:
        beat = data.StructLayout({"kind": 3, "word": 40})
        ports = {
            "scores": In(stream.Signature(beat)),
            "results": Out(stream.Signature(40)),
            "configuration": In(stream.Signature(2)),
        }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, again, hung, waited = Signal(), Signal(), Signal(), Signal()
        kind, word = Signal(3), Signal(40)
        results, scores = self.results, self.scores
        m.d.comb += [
            results.valid.eq(valid & ~((kind == Kind.WITHDRAW) & waited)),
            results.payload.eq(word ^ (kind == Kind.WRONG) ^ Mux((kind == Kind.CHANGE) & waited, 1 << 39, 0)),
            scores.ready.eq((~valid | (results.valid & results.ready & ~again)) & ~hung),
            self.configuration.ready.eq(self.configuration.payload[0]),
        ]
        m.d.sync += waited.eq(results.valid & ~results.ready)
        with m.If(results.valid & results.ready):
            m.d.sync += [valid.eq(again), again.eq(kind == Kind.ENDLESS)]
        with m.If(scores.valid & scores.ready):
            m.d.sync += [kind.eq(scores.p.kind), word.eq(scores.p.word)]
            m.d.sync += valid.eq((scores.p.kind != Kind.DROP) & (scores.p.kind != Kind.HANG))
            twice = (scores.p.kind == Kind.DOUBLE) | (scores.p.kind == Kind.ENDLESS)
            m.d.sync += [again.eq(twice), hung.eq(scores.p.kind == Kind.HANG)]
        return m


def beats(kinds: list[Kind], writes: tuple[int, ...] = ()) -> Stream:
    words = np.random.default_rng(0).integers(0, 1 << 40, len(kinds))[:, None]
    offered = np.asarray([[2, write] for write in writes], np.uint32).reshape(-1, 2)
    scores = pack([(np.asarray(kinds)[:, None], 3), (words, 40)])
    return Stream(scores, pack([(words, 40)]), offered, np.ones(len(kinds), np.int64))


GOOD = [Kind.PASS] * 20
HALF = Traffic(stall=128, longest_stall=3)


@verilator
def test_the_harness_can_fail() -> None:
    """Every kind of fault is detected and reported on its own, with the first wrong beats and all cycles."""
    simulator = Verilated(Faulty())
    check_faults(simulator)
    check_the_outcome(simulator)


def check_faults(simulator: Verilated) -> None:
    def faults(kinds: list[Kind], traffic: Traffic = Traffic(), writes: tuple[int, ...] = ()) -> list[str]:
        stimulus = beats(kinds, writes)
        return simulator.run(stimulus, traffic).faults(stimulus)

    assert faults(GOOD) == faults(GOOD, HALF) == faults(GOOD, Traffic(128, 9, 128, 9)) == []
    assert faults(GOOD, writes=(1, 3, 1)) == []
    assert faults([*GOOD, Kind.DROP]) == ["only 20 of 21 result beats arrived"]
    assert faults([*GOOD, Kind.DROP, Kind.PASS]) == ["1 wrong result beats", "only 21 of 22 result beats arrived"]
    assert faults([*GOOD, Kind.DOUBLE]) == ["1 surplus result beats"]
    assert faults([Kind.DOUBLE, Kind.PASS]) == ["1 wrong result beats", "1 surplus result beats"]
    assert faults([*GOOD, Kind.WRONG, Kind.PASS]) == ["1 wrong result beats"]
    assert faults([*GOOD, Kind.HANG, Kind.PASS]) == [
        "only 20 of 22 result beats arrived",
        "only 21 of 22 score beats were accepted",
    ]
    (endless,) = faults([*GOOD, Kind.ENDLESS])
    assert endless.endswith(" surplus result beats")
    wrong, waits, endless = faults([*GOOD, Kind.ENDLESS, Kind.PASS])
    assert (wrong, waits) == ("1 wrong result beats", "only 21 of 22 score beats were accepted")
    assert endless.endswith(" surplus result beats")
    assert faults(GOOD, writes=(1, 2, 1)) == ["only 1 of 3 configuration writes were accepted"]

    # These are detected only if results have to wait.
    for kind in (Kind.CHANGE, Kind.WITHDRAW):
        assert faults([kind] * 20) == []
        *_, last = faults([kind] * 20, HALF)
        assert last.startswith("a waiting result changed in ")


def check_the_outcome(simulator: Verilated) -> None:
    stimulus = beats([*GOOD, Kind.WRONG, *GOOD, Kind.WRONG])
    outcome = simulator.run(stimulus, Traffic(gap=128, longest_gap=4, stall=128, longest_stall=4), cycles=True)
    assert (outcome.taken, outcome.compared, outcome.mismatches) == (42, 42, 2)
    assert [at for at, _ in outcome.wrong] == [20, 41]
    for at, words in outcome.wrong:
        assert (words == stimulus.results[at] ^ [1, 0]).all()
    assert len(outcome.taken_at) == len(outcome.given_at) == 42
    assert (outcome.given_at > outcome.taken_at).all()
    assert (np.diff(outcome.taken_at) >= 1).all()
    assert outcome.cycles > outcome.given_at[-1]
    again = simulator.run(stimulus, Traffic(gap=128, longest_gap=4, stall=128, longest_stall=4), cycles=True)
    assert (again.given_at == outcome.given_at).all()
    other = simulator.run(stimulus, Traffic(gap=128, longest_gap=4, stall=128, longest_stall=4, seed=2), cycles=True)
    assert (other.given_at != outcome.given_at).any()

    steady = simulator.run(beats(GOOD), Traffic(), cycles=True)
    assert (steady.given_at - steady.taken_at == 1).all()
    assert steady.taken_at is not None
    assert (np.diff(steady.taken_at) == 1).all()
    assert simulator.run(beats(GOOD), Traffic()).taken_at is None

    many = simulator.run(beats([Kind.WRONG] * 300), Traffic())
    assert (many.mismatches, many.wrong_results) == (300, 300)
    assert len(many.wrong) == 100

    # Results of 8 bits each; the first and the third of every beat are wrong.
    narrow = replace(beats(GOOD), result_bits=8)
    narrow.results[:, 0] ^= 0x30001
    outcome = simulator.run(narrow, Traffic())
    assert (outcome.mismatches, outcome.wrong_results) == (20, 40)


@verilator
def test_a_fault_in_the_design() -> None:
    stimulus = beats([Kind.WRONG] * 100)
    even = int((stimulus.results[:, 0] % 2 == 0).sum())
    # The lowest bit is now set instead of inverted.
    faulty = Verilated(Faulty(), fault=lambda design: design.replace("cell $xor ", "cell $or "))
    outcome = faulty.run(stimulus, Traffic())
    assert outcome.faults(stimulus) == [f"{even} wrong result beats"]
    assert 0 < even < 100


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty cache, and with its `bin` first on the PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def simulations(cache: Path) -> list[Path]:
    """Return everything in a cache but the Verilog that Yosys has written, and the folder for simulations."""
    kept = {cache / "yosys", cache / "verilated"}
    return [path for path in cache.rglob("*") if path not in kept and cache / "yosys" not in path.parents]


@verilator
@pytest.mark.parametrize("tool", ["yosys", "verilator", "make", "perl", "g++"])
def test_a_missing_tool(tool: str, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda name: None if name == tool else real(name))
    with pytest.raises(ToolError) as error:
        Verilated(Faulty())
    assert str(error.value) == f"{tool} is not installed; get it with {tools.PACKAGES[tool]}"
    assert simulations(fresh / "cache") == []


@verilator
@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (["verilator"], "verilator failed while reading the Verilog"),
        (["c++", "g++"], "failed while"),
    ],
)
def test_a_build_that_fails(programs: list[str], message: str, fresh: Path) -> None:
    for program in programs:  # Verilator uses the name of the compiler that it was built with
        fake(fresh / "bin", program, "for i in 1 2 3; do echo line $i >&2; done; exit 7")
    with pytest.raises(ToolError, match=message) as error:
        Verilated(Faulty())
    assert "end of its output:" in str(error.value)
    assert "line 3" in str(error.value)
    assert simulations(fresh / "cache") == []


@pytest.mark.slow  # test_measured_arrays.py compiles a model so too
@verilator
def test_no_program_has_to_be_called_python(no_python: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in (cache_folder() / "verilated").glob("runtime-*"):  # compiled already
        shutil.copytree(runtime, tmp_path / "cache" / "verilated" / runtime.name)
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "cache"))
    assert Verilated(Faulty()).program.is_file()


@verilator
def test_models_do_not_read_the_header_of_the_runtime_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "Free Software Foundation" not in tools.call(["c++", "--version"], tmp_path, "printing its version"):
        pytest.skip("only GCC precompiles it")
    cache, own = cache_folder() / "verilated", tmp_path / "verilated"
    own.mkdir()
    for runtime in cache.glob("runtime-*"):  # compiled already
        (own / runtime.name).symlink_to(runtime)
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path))
    Verilated(Faulty(), fast=False)
    (header,) = own.glob("header-*/runtime.h")
    header.write_text("#error it was read\n")
    constants = Sigmoid().examples()[0]
    for loaded in (None, constants):
        assert Verilated(Sigmoid().unit(lanes=1, constants=loaded), fast=False).program.is_file()
    header.with_name("runtime.h.gch").unlink()
    with pytest.raises(ToolError, match="it was read"):
        Verilated(Sigmoid().unit(lanes=2, constants=constants), fast=False)


def test_a_simulation_that_ends_without_a_result() -> None:
    with pytest.raises(ToolError, match="the simulation ended without a result"):
        read_outcome("mismatch 3 00000001\n")
    printed = (
        "mismatch 3 0000000a ffffffff\n"
        "lost 1 3\n"
        "done taken=5 written=1 received=4 mismatches=1 "
        "wrong_results=2 extra=0 unstable=2 dependent=3 resets=1 cycles=99\n"
    )
    outcome = read_outcome(printed)
    assert (outcome.taken, outcome.written, outcome.compared, outcome.unstable, outcome.cycles) == (5, 1, 2, 2, 99)
    assert (outcome.received, outcome.lost, outcome.dependent, outcome.resets) == (4, [(1, 3)], 3, 1)
    assert (outcome.mismatches, outcome.wrong_results) == (1, 2)
    assert outcome.wrong[0][0] == 3
    assert outcome.wrong[0][1].tolist() == [10, 0xFFFFFFFF]


def test_every_count_can_be_a_fault() -> None:
    stimulus = beats(GOOD, (1,))
    right = {"taken": 20, "written": 1, "received": 20}
    assert Outcome(**right).faults(stimulus) == []
    assert all(Outcome(**(right | {name: 0})).faults(stimulus) for name in right)
    counts = ("mismatches", "extra", "unstable", "dependent", "intruding")
    assert all(len(Outcome(**right, **{name: 1}).faults(stimulus)) == 1 for name in counts)
