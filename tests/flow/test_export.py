"""The folder for a chip project: complete, clean in Verilator lint, and checked by its own test bench in Icarus."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export import check_export_folder, export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.flow.vectors import Rows
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

FORMS = {"baked": "flip-flops", "loadable": "flip-flops", "latches": "latches", "memory": "memory"}
"""Storage of each form; in the form "baked", constants, if any, are baked in."""


def every_case() -> Iterator[Any]:
    """Yield every form of every method at one and at four lanes; the fast tests use one form and size of each."""
    for turn, method in enumerate(METHODS):
        forms = [form for form, storage in FORMS.items() if storage in method_class(method).storages]
        for form, lanes in itertools.product(forms, (1, 4)):
            quick = (form, lanes) == (forms[(turn + 1) % len(forms)], (1, 4)[turn % 2])
            yield pytest.param((method, form, lanes), marks=[] if quick else pytest.mark.slow)


CASES = list(every_case())


def linted_cases() -> Iterator[Any]:
    """Yield the cases; the fast tests lint every form once, but memories, whose top is linted in shell/."""
    seen = {"memory"}
    for case in CASES:
        form = case.values[0][1]
        quick = not case.marks and form not in seen
        if quick:
            seen.add(form)
        yield pytest.param(*case.values, marks=[] if quick else pytest.mark.slow)


NAME = "unit_under_test"

icarus = pytest.mark.skipif(not (shutil.which("iverilog") and find("make")), reason="needs Icarus Verilog and make")
verilator = pytest.mark.skipif(not (find("verilator") and find("make")), reason="needs Verilator and make")


def constants_of(spec: Spec) -> Constants:
    return spec.examples()[0]


def build(spec: Spec, form: str, lanes: int, **sizes: Any) -> Any:
    constants = constants_of(spec) if form == "baked" else None
    return spec.unit(lanes, constants, storage=FORMS[form], **({"max_row": 24} | sizes))


def rows(unit: Any, results: int, seed: int = 0) -> Rows:
    return random_rows(unit, constants_of(unit.spec), results, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(method: str, form: str, lanes: int) -> Path:
        spec = method_class(method)()
        unit = build(spec, form, lanes)
        folder = tmp_path_factory.mktemp("exported") / "folder"
        segments = [(constants_of(spec), rows(unit, 300, seed)) for seed in range(2)]
        export(unit, NAME, folder, segments)
        return folder

    return make


@pytest.fixture
def copied(exported: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("consmax", "loadable", 4), tmp_path / "copy"))


def make(folder: Path, target: str) -> tuple[int, str]:
    """Run make in an environment without softmaxkit."""
    tools = [f"VERILATOR={find('verilator')}"] if target != "test" else []
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ""}
    command = ["make", "-s", "-C", str(folder), "--no-print-directory", target, *tools]
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_and_files(case: tuple[str, str, int], exported: Any) -> None:
    method, form, lanes = case
    folder = exported(*case)
    facts = json.loads((folder / "parameters.json").read_text())
    assert Spec.from_json(facts["spec"]) == method_class(method)()
    assert facts["lanes"] == lanes
    assert [cycles["row"] for cycles in facts["cycles"]] == sorted({1, lanes, 24})
    files = {path.name for path in folder.iterdir()}
    loadable = facts["constants"] == "loadable"
    ends = (".sv", "_axis.sv", "_tb.sv", "_sva.sv", "_formal.sv", "_cocotb.sv", "_cocotb.py", ".sby", ".core", ".sdc")
    assert files == {
        *(f"{NAME}{end}" for end in (*ends, "_sta.tcl")),
        *("scores.hex", "results.hex", "tables.json", "parameters.json", "lint.vlt", "prove.ys", "librelane.json"),
        *("README.md", "Makefile"),
        *(["writes.hex"] if loadable else []),
        *([f"{NAME}_memory.sv", f"{NAME}_top.sv"] if facts["memories"] else []),
    }
    assert bool(facts["memories"]) == (form == "memory")
    verilog = (folder / f"{NAME}.sv").read_text()
    header = re.search(rf"^module {NAME}\(([^)]*)\)", verilog, re.MULTILINE)
    assert header is not None
    assert {port["name"] for port in facts["ports"]} == set(re.findall(r"\w+", header[1]))
    readme = (folder / "README.md").read_text()
    assert re.findall(r"^- (\w+): \w", readme, re.MULTILINE) == ["Latency", "Interval"]
    assert "Return " not in readme
    tables = json.loads((folder / "tables.json").read_text())
    assert bool(tables["registers"]) == loadable
    assert all(register["meaning"] and f"| {register['meaning']} |" in readme for register in tables["registers"])
    assert tables["sets"][0]["constants"] == json.loads(json.dumps(constants_of(method_class(method)()).to_json()))


@verilator
@pytest.mark.parametrize("case", linted_cases(), ids=str)
def test_lint_is_clean(case: tuple[str, str, int], exported: Any) -> None:
    assert make(exported(*case), "lint") == (0, "")


def test_lint_works_with_verilator_of_debian_12(copied: Path) -> None:
    """Verilator 5.006 supports these rules but has no --quiet option."""
    rules = set(re.findall(r"-rule (\w+)", (copied / "lint.vlt").read_text()))
    assert rules == {"WIDTH", "CASEOVERLAP", "UNSIGNED", "UNUSEDSIGNAL", "DECLFILENAME", "VARHIDDEN"}
    fake = copied / "fake"
    for refused, quiet in (("--quiet", False), ("--other", True)):
        fake.write_text(f'#!/bin/sh\ncase "$1" in {refused}) exit 1;; esac\necho "$@"\n')
        fake.chmod(0o755)
        command = ["make", "-s", "-C", str(copied), "--no-print-directory", "lint", f"VERILATOR={fake}"]
        printed = subprocess.run(command, text=True, capture_output=True, check=True).stdout
        assert ("--quiet" in printed) == quiet
        assert "--lint-only" in printed


@icarus
@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_own_bench_passes(case: tuple[str, str, int], exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(*case), tmp_path / "copy")
    code, printed = make(folder, "test")
    assert code == 0, printed
    beats = len((folder / "results.hex").read_text().splitlines())
    runs = re.findall(r"^PASS: (\d+) result beats.*; (\d+) beats lost in (\d+) resets", printed, re.MULTILINE)
    assert [int(compared) + int(lost) for compared, lost, _ in runs] == [beats] * 4
    assert [int(resets) > 0 for *_, resets in runs] == [False, False, True, False]


@icarus
@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ({"output_bits": 13}, {"max_row": 1}),
        pytest.param(
            {"bits": 16, "constant": "multiplied", "output_bits": 13}, {"apart": True}, marks=pytest.mark.slow
        ),
        pytest.param({"tables": "whole"}, {"depth": 1}, marks=pytest.mark.slow),
    ],
)
def test_padded_lanes_and_short_rows(spec: dict[str, Any], sizes: dict[str, Any], tmp_path: Path) -> None:
    chosen = method_class("consmax")(**spec)
    unit = build(chosen, "loadable", 3, **sizes)
    export(unit, NAME, tmp_path / "folder", [(chosen.constants(), rows(unit, 100))])
    code, printed = make(tmp_path / "folder", "test")
    assert code == 0, printed
    if find("verilator"):
        assert make(tmp_path / "folder", "lint") == (0, "")


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("method", METHODS)
def test_bench_in_verilator(method: str, exported: Any, no_python: None, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(method, "latches", 4), tmp_path / "copy")
    code, printed = make(folder, "test-verilator")
    assert code == 0, printed
    assert printed.count("PASS") == 4
    flip(folder / "results.hex", 5)
    code, printed = make(folder, "test-verilator")
    assert code != 0
    assert "FAIL" in printed


def flip(path: Path, line: int) -> None:
    """Flip the lowest bit of a line."""
    lines = path.read_text().split()
    lines[line] = f"{int(lines[line], 16) ^ 1:0{len(lines[line])}x}"
    path.write_text("\n".join(lines) + "\n")


@icarus
def test_a_flipped_bit_fails(copied: Path) -> None:
    flip(copied / "results.hex", 5)
    code, printed = make(copied, "test")
    assert code != 0
    assert re.search(r"^beat 5, lane 0: expected \w+, got \w+$", printed, re.MULTILINE)
    assert re.search("^FAIL: .* 1 wrong", printed, re.MULTILINE)


@icarus
@pytest.mark.parametrize(
    ("emptied", "reason"),
    [
        (("scores.hex",), "no progress"),
        (("results.hex",), "surplus"),
        (("writes.hex",), "FAIL"),
        (("scores.hex", "results.hex"), "nothing was compared"),
        (("scores.hex", "results.hex", "writes.hex"), "nothing was compared"),
    ],
    ids=str,
)
def test_empty_vectors_fail(emptied: tuple[str, ...], reason: str, copied: Path) -> None:
    for name in emptied:
        (copied / name).write_text("")
    if emptied == ("scores.hex", "results.hex"):  # and no writes that wait for scores
        lines = (copied / "writes.hex").read_text().splitlines(keepends=True)
        (copied / "writes.hex").write_text("".join(line for line in lines if line.startswith("0 ")))
    code, printed = make(copied, "test")
    assert code != 0
    assert "FAIL" in printed
    assert reason in printed


@icarus
@pytest.mark.parametrize(
    ("line", "wrong", "reason"),
    [
        ("assign m_axis_tlast = ", "assign m_axis_tlast = ~m_axis_tready ^ ", r"[1-9]\d* changed while waiting"),
        ("    s_axis_tdata\n", "    {s_axis_tdata[$bits(s_axis_tdata)-1:8], 8'bx}\n", r"[1-9]\d* wrong"),
        (".scores_ready(s_axis_tready)", ".scores_ready()", r"[1-9]\d* unknown"),
        (".results_ready(m_axis_tready)", ".results_ready(1'b1)", "FAIL"),
        (".rst(~aresetn)", ".rst(1'b0)", "FAIL"),
    ],
)
def test_a_broken_design_fails(line: str, wrong: str, reason: str, copied: Path) -> None:
    wrapper = copied / f"{NAME}_axis.sv"
    text = wrapper.read_text()
    assert line in text
    wrapper.write_text(text.replace(line, wrong))
    code, printed = make(copied, "test")
    assert code != 0
    assert re.search(f"^FAIL: .*{reason}" if reason != "FAIL" else "^FAIL", printed, re.MULTILINE), printed


def test_the_wrapper_assigns_nets_whole(copied: Path) -> None:
    """Icarus keeps strengths of nets that are driven in parts: with 32 lanes its bench took 33 times as long."""
    assert not re.search(r"assign \w+\[", (copied / f"{NAME}_axis.sv").read_text())


@icarus
def test_a_table_that_takes_words_that_are_not_offered_fails(copied: Path) -> None:
    """An X address writes nothing in simulation, so that words that are not offered are not always X."""
    design = copied / f"{NAME}.sv"
    offered = r"(assign enable_\w+ = )configuration_valid & configuration_ready;"
    broken, count = re.subn(offered, r"\g<1>1'b1;", design.read_text())
    assert count > 0
    design.write_text(broken)
    code, printed = make(copied, "test")
    assert code != 0
    assert re.search(r"^FAIL: .* [1-9]\d* wrong", printed, re.MULTILINE), printed


@pytest.mark.parametrize(
    ("period", "half"),
    [
        (3.3333, "1.667"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.002, "0.001"), (5.0, "2.5"), (1e6, "500000.0"))),
    ],
)
def test_the_benches_count_in_whole_ps(period: float, half: str, tmp_path: Path) -> None:
    spec = method_class("consmax")()
    unit = build(spec, "baked", 1)
    export(unit, NAME, tmp_path / "unit", [(spec.constants(), rows(unit, 10))], Constraints(period=period))
    assert f"always #({half}) aclk" in (tmp_path / "unit" / f"{NAME}_tb.sv").read_text()
    assert f"PERIOD = {round(2000 * float(half))}  # ps" in (tmp_path / "unit" / f"{NAME}_cocotb.py").read_text()


def test_refusals(exported: Any, tmp_path: Path) -> None:
    spec = method_class("consmax")()
    constants, unit = spec.constants(), build(spec, "baked", 4)
    some = rows(unit, 100)
    for name in ("2d", "a-b", "", "a\n", "é", "a__b", "n" * 201, "module", "soft"):
        with pytest.raises(ValueError, match=r"a module name|keyword"):
            export(unit, name, tmp_path / "folder", [(constants, some)])
    waiting = method_class("exact")().unit(4, max_row=24, storage="memory")
    with pytest.raises(ValueError, match="the macro u_ram has the name of a module of u"):
        export(waiting, "u", tmp_path / "folder", [(None, rows(waiting, 4))], sram="u_ram:8x64")
    with pytest.raises(ValueError, match="requires rows"):
        export(unit, NAME, tmp_path / "folder", [])
    with pytest.raises(ValueError, match="baked in"):
        export(unit, NAME, tmp_path / "folder", [(spec.constants(beta=0.5), some)])
    with pytest.raises(ValueError, match="rows of up to 24"):
        export(unit, NAME, tmp_path / "folder", [(constants, rows(build(spec, "baked", 4, max_row=25), 100))])
    with pytest.raises(ValueError, match="period"):
        export(unit, NAME, tmp_path / "folder", [(constants, some)], Constraints(period=0.0))
    assert not list(tmp_path.iterdir())


def test_folders(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        check_export_folder(tmp_path / "file", overwrite=True)
    with pytest.raises(ValueError, match="is not an exported unit"):
        check_export_folder(tmp_path, overwrite=True)
    folder = exported("consmax", "loadable", 4)
    with pytest.raises(ValueError, match="already contains an exported unit"):
        check_export_folder(folder, overwrite=False)
    assert check_export_folder(folder, overwrite=True) == folder.resolve()
    several = tmp_path / "several"
    for name in ("layer0-head0", "layer0-head1"):
        shutil.copytree(folder, several / name)
    with pytest.raises(ValueError, match="already contains an exported unit"):
        check_export_folder(several, overwrite=False)
    assert check_export_folder(several, overwrite=True) == several.resolve()
    (several / "notes.txt").touch()
    with pytest.raises(ValueError, match="is not an exported unit"):
        check_export_folder(several, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert check_export_folder(tmp_path / "empty", overwrite=False).is_dir()
