"""`softmaxkit verify` and `softmaxkit rtl` as a user runs them."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import FEW, SMALL, last_line, run, verilator, yosys

from softmaxkit import ConSmax, Q, Softermax, Spec
from softmaxkit.cli import rtl, synth, verify
from softmaxkit.cli.units import sizes
from softmaxkit.flow import tools
from softmaxkit.methods import ALL_METHODS, METHODS
from softmaxkit.studies.silicon import storage_in


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec whose unit is quick to build."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(ConSmax(tables="whole").to_json()))
    return path


@pytest.fixture
def unloaded(tmp_path: Path) -> Path:
    """A spec whose unit has no constants."""
    path = tmp_path / "unloaded.json"
    narrow = Softermax(input=Q(3, 1), power_segments=2, reciprocal_segments=2, slice_width=2)
    path.write_text(json.dumps(narrow.to_json()))
    return path


@verilator
def test_a_record_of_every_unit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "verify", "consmax", *FEW, "--depth", 3, "--seed", 5, "--json", tmp_path / "r.json")
    assert code == 0, err
    assert "mismatches" in out
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["seed"], record["inputs"]) == (5, {"outputs": 100})
    assert {"amaranth", "verilator"} <= set(record["versions"])
    assert [result["unit"] for result in record["results"]] == ["loadable", "baked"]
    for result in record["results"]:
        assert Spec.from_json(result["spec"]) == ConSmax()
        stated = {
            name: result[name] for name in ("method", "mode", "lanes", "max_row", "depth", "storage", "simulator")
        }
        assert stated == {
            "method": "consmax",
            "mode": "hardware",
            "lanes": 2,
            "max_row": 8,
            "depth": 3,
            "storage": "flip-flops",
            "simulator": "verilator",
        }
        assert result["compared"] >= 2 * 65536  # every pair of codes
        assert (result["mismatches"], result["faults"], result["wrong"]) == (0, [], [])
        assert result["exhausted"] == ["Float(8,7) multiplier, 16384 inputs"]
        assert result["cycles"] > 65536
        assert result["injected_fault"] is None
    loaded, baked = (result["constants"] for result in record["results"])
    assert loaded == json.loads(json.dumps([constants.to_json() for constants in ConSmax().examples()]))
    assert baked == loaded[:1]


@verilator
def test_units_of_one_kind(capsys: pytest.CaptureFixture[str], spec: Path) -> None:
    for kind in ("baked", "loadable"):
        code, out, err = run(capsys, "verify", "--spec", spec, *FEW, "--constants", kind, "--json", "-")
        assert code == 0, err
        (result,) = json.loads(out)["results"]
        assert result["unit"] == kind


def test_the_same_defaults_for_every_verb() -> None:
    defaults = [
        {name: inspect.signature(verb).parameters[name].default for name in ("lanes", "max_row", "depth")}
        for verb in (rtl, verify, synth)
    ]
    assert defaults == [{"lanes": 1, "max_row": 256, "depth": None}] * 3
    assert {inspect.signature(verb).parameters["storage"].default for verb in (rtl, verify)} == {"flip-flops"}
    assert sizes(1, 256, None, storage_in("sky130", None))["storage"] == "flip-flops"
    assert sizes(1, 256, None, storage_in("ice40", None))["storage"] == "memory"


@verilator
def test_an_injected_fault_is_noticed(capsys: pytest.CaptureFixture[str], unloaded: Path, tmp_path: Path) -> None:
    broken = ("--seed", 0, "--inject-fault", "--json", tmp_path / "record.json")
    code, _, err = run(capsys, "verify", "--spec", unloaded, *FEW, *broken)
    assert code == 1
    assert "wrong result beats" in err
    assert "lane 0, row " in err
    assert last_line(err) == "error: the hardware differs from the exact integers: softermax"
    (result,) = json.loads((tmp_path / "record.json").read_text())["results"]
    assert f"injected: {result['injected_fault']}" in " ".join(err.split())
    assert 0 < len(result["wrong"]) <= result["mismatches"]
    assert set(result["wrong"][0]) == {"lane", "row", "position", "code", "expected", "got"}


@pytest.mark.slow
@verilator
def test_a_waveform(capsys: pytest.CaptureFixture[str], unloaded: Path, tmp_path: Path) -> None:
    wave = tmp_path / "waves" / "wave.vcd"
    for broken, expected in (((), 0), (("--seed", 0, "--inject-fault"), 1)):
        code, _, err = run(capsys, "verify", "--spec", unloaded, *FEW, *broken, "--waveform", wave)
        assert code == expected, err
        assert wave.read_text().startswith("$version")
        wave.unlink()
    assert list(wave.parent.iterdir()) == []


@pytest.mark.slow
@verilator
def test_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", "all", *FEW, "--json", "-")
    assert code == 0, err
    units = [(result["method"], result["unit"]) for result in json.loads(out)["results"]]
    kinds = {name: ("loadable", "baked") if METHODS[name]().unit().registers else ("",) for name in ALL_METHODS}
    assert units == [(name, kind) for name in ALL_METHODS for kind in kinds[name]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "give either a METHOD or --spec FILE"),
        (["verify", "softmax"], "did you mean 'softermax'?"),
        (["verify", "exaq", "--spec", "spec.json"], "give either a METHOD or --spec FILE"),
        (["verify", "all", "--spec", "spec.json"], "'all' selects the methods' defaults"),
        (["verify", "all", "--model", "missing"], "'all' selects the methods' defaults"),
        (["verify", "--spec", "missing.json"], "cannot read the spec missing.json"),
        (["verify", "--model", "missing"], "cannot load the model missing"),
        (["verify", "exaq", "--lanes", 0], "lanes is a whole number from 1 to 256, not 0"),
        (["verify", "exaq", "--max-row", 0], "max_row is a whole number from 1 to 65536, not 0"),
        (["verify", "exaq", "--depth", 99], "depth is a whole number from"),
        (["verify", "softermax", "--lanes", 3], "lanes divide 16 or are a multiple of it, not 3"),
        (["verify", "consmax", "--storage", "memory"], "storage is 'flip-flops' or 'latches' for this unit"),
        (["verify", "exaq", "--storage", "sram"], "'sram' is not one of 'flip-flops', 'latches', 'memory'"),
        (["verify", "exaq", "--outputs", 0], "--outputs"),
        (["verify", "exaq", "--lanes", "many"], "--lanes"),
        (["verify", "softermax", "--constants", "loadable"], "softermax has no constants to bake in or to load; leave"),
        (["verify", "softermax", "--constants", "baked"], "softermax has no constants to bake in or to load; leave"),
        (
            ["verify", "exact", "--layer", 0],
            "without --model there is no head for --layer; add --model, or leave --layer out",
        ),
        (
            ["verify", "exact", "--context", 64],
            "without --model there is no head for --context; add --model, or leave --context out",
        ),
        (["rtl"], "give either a METHOD or --spec FILE"),
        (["rtl", "all"], f"the methods are {', '.join(METHODS)}"),
        (["rtl", "exaq", "--lanes", 257], "lanes is a whole number from 1 to 256, not 257"),
        (["rtl", "exaq", "--constants", "fixed"], "'fixed' is not one of 'baked', 'loadable'"),
        (
            ["rtl", "exact", "--constants", "loadable"],
            "exact has no constants to bake in or to load; leave",
        ),
        (["rtl", "softermax", "--constants", "baked"], "softermax has no constants to bake in or to load; leave"),
        (
            ["rtl", "exaq", "--head", "all"],
            "without --model there is no head for --head; add --model, or leave --head out",
        ),
        (["rtl", "exaq", "--name", "2d"], "a module name must be letters, digits and underscores"),
        (["rtl", "exaq", "--clock", 0], "the clock period must be 0.002 to 1,000,000 ns, got 0"),
        (["rtl", "exaq", "--clock", 0.0005], "the clock period must be 0.002 to 1,000,000 ns, got 0.0005"),
        (["rtl", "exaq", "--clock", "nan"], "the clock period must be 0.002 to 1,000,000 ns, got nan"),
        (["rtl", "engine", "--method", "exaq", "--clock", 0.001], "the clock period must be 0.002 to 1,000,000 ns"),
        (
            ["rtl", "exaq", "--clock", 4, "--input-delay", 2, "--output-delay", 2.5],
            "leave -0.5 ns of a period",
        ),
        (["rtl", "exaq", "--load", -1], "the load must be a finite number of 0 or more, got -1"),
        (["rtl", "exaq", "--layer", "first"], "'--layer': must be a number from 0, or all, got 'first'"),
        (["rtl", "exaq", "-o", __file__], "is a file; give a folder"),
        (["rtl", "exaq", "-o", Path(__file__).parent], "is not an exported unit"),
        (["rtl", "--model", "missing"], "cannot load the model missing"),
    ],
    ids=str,
)
def test_wrong_arguments_get_one_line_and_exit_code_2(
    arguments: list[object], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert last_line(err).startswith("error: ")
    assert message in last_line(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["verify", "rtl"])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert all(option in out for option in ("--lanes", "--max-row", "--depth", "--storage", "--model", "--layer"))


@pytest.mark.parametrize("tool", ["g++", pytest.param("verilator", marks=pytest.mark.slow)])
def test_fewer_are_compared_without_a_tool(
    tool: str, capsys: pytest.CaptureFixture[str], unloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda name: None if name == tool else real(name))
    code, out, err = run(capsys, "verify", "--spec", unloaded, *SMALL, "--outputs", 8_000, "--json", "-")
    assert code == 0, err
    announced = " ".join(err.split())
    assert "Amaranth's simulator compares a fiftieth of the outputs" in announced
    assert f"{tool} is not installed; get it with {tools.PACKAGES[tool]}" in announced
    assert (
        "Hardware outputs compared with the exact integers" in err
    )  # the table goes to standard error, since the record is on standard output
    (result,) = json.loads(out)["results"]
    assert Spec.from_json(result["spec"]) == Spec.from_json(unloaded.read_text())
    assert (result["simulator"], result["mismatches"]) == ("amaranth", 0)
    assert 8_000 // 50 <= result["compared"] < 8_000 // 10
    code, _, err = run(capsys, "verify", "--spec", unloaded, *FEW, "--storage", "latches")
    assert code == 1
    assert "a unit with latches requires Verilator" in last_line(err)
    for ignored in (("--inject-fault",), ("--waveform", "wave.vcd")):
        code, _, err = run(capsys, "verify", "--spec", unloaded, *FEW, *ignored)
        assert code == 1
        assert f"requires Verilator; {tool} is not installed" in last_line(err)


@verilator
def test_a_simulator_that_fails(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "verilator"
    fake.write_text("#!/bin/sh\nfor i in 1 2 3; do echo reason $i >&2; done; exit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "cache"))
    code, _, err = run(capsys, "verify", "--spec", spec, *FEW)
    assert code == 1
    error = err[err.index("error: ") :].splitlines()
    assert re.fullmatch(r"error: verilator failed while .* \(exit code 7\); the end of its output:", error[0])
    assert error[1:] == [f"  reason {at}" for at in (1, 2, 3)]


@yosys
def test_a_folder_for_a_chip(capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    command = ("rtl", "--spec", spec, *SMALL, "-o", folder)
    code, _, err = run(capsys, *command, "--name", "unit")
    assert code == 0
    assert f"begin with {folder / 'README.md'}\n" in err
    assert (folder / "unit.sv").read_text().count("module unit(") == 1
    facts = json.loads((folder / "parameters.json").read_text())
    assert (facts["lanes"], facts["max_row"], facts["constants"], facts["name"]) == (2, 8, "loadable", "unit")
    assert Spec.from_json(facts["spec"]) == ConSmax(tables="whole")
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "already contains an exported unit" in last_line(err)
    assert (folder / "unit.sv").is_file()
    code, _, err = run(capsys, *command, "--overwrite", "--constants", "baked")
    assert code == 0, err
    assert not (folder / "unit.sv").exists()
    assert "module softmaxkit_consmax(" in (folder / "softmaxkit_consmax.sv").read_text()
    assert json.loads((folder / "parameters.json").read_text())["constants"] == "baked in"
    assert list(tmp_path.glob(".*")) == []


def test_no_folder_without_yosys(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda name: None if name == "yosys" else real(name))
    code, _, err = run(capsys, "rtl", "--spec", spec, *SMALL, "-o", tmp_path / "folder")
    assert code == 1
    assert last_line(err) == "error: yosys is not installed; get it with pip install 'softmaxkit[hardware]'"
    assert list(tmp_path.iterdir()) == [spec]
