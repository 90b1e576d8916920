"""`rtl`, `verify` and `synth` of attention engines as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import last_line, run, verilator, yosys

from softmaxkit import Softermax
from softmaxkit.flow import tools

ENGINE = ("--rows", 2, "--columns", 2, "--channels", 4, "--keys", 9)


@yosys
def test_rtl_writes_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    code, out, err = run(capsys, "rtl", "engine", "--method", "sigmoid", *ENGINE, "-o", folder, "--json", "-")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    facts = json.loads((folder / "parameters.json").read_text())
    assert (result["pipeline"], facts["steps"], facts["writes"]) == ("element", 2, 20)
    assert result["latency_cycles"] == facts["first"] + 1
    names = {path.name for path in folder.iterdir()}
    module = "softmaxkit_sigmoid_engine"
    assert names == {
        *(f"{module}{end}" for end in (".sv", "_tb.sv", "_sva.sv", ".sdc", "_sta.tcl")),
        *("lint.vlt", "Makefile", "README.md", "parameters.json"),
        *("queries.hex", "outputs.hex", "writes.hex"),
    }
    assert f"module {module}(" in (folder / f"{module}.sv").read_text()
    code, _, err = run(capsys, "rtl", "engine", "--method", "sigmoid", *ENGINE, "-o", folder)
    assert code == 2
    assert "--overwrite" in err


@pytest.mark.slow
@verilator
def test_the_test_bench_in_the_folder_passes_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    command = ("rtl", "engine", "--method", "softermax", "--pipeline", "deferred", *ENGINE, "--storage", "memory")
    assert run(capsys, *command, "-o", folder)[0] == 0
    verilator_binary = tools.find("verilator")
    assert verilator_binary
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(verilator_binary).parent), os.environ["PATH"]])
    make = ["make", "-C", str(folder), "test-verilator"]
    passed = subprocess.run(make, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert passed.stdout.count("PASS") == 2
    lines = (folder / "outputs.hex").read_text().splitlines()
    lines[5] = f"{int(lines[5], 16) ^ 1:0{len(lines[5])}x}"
    (folder / "outputs.hex").write_text("\n".join(lines) + "\n")
    failed = subprocess.run(make, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "1 wrong" in failed.stdout


@pytest.mark.slow
@verilator
def test_verify_goes_through_both_pipelines(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("verify", "engine", "--method", "softermax", *ENGINE, "--outputs", 500, "--json", "-")
    code, out, err = run(capsys, *command)
    assert code == 0, err
    results = json.loads(out)["results"]
    assert [result["unit"] for result in results] == ["token", "deferred"]
    assert all(result["compared"] >= 500 and result["mismatches"] == 0 for result in results)
    wider = ("--rows", 2, "--columns", 4, "--channels", 8, "--keys", 19, "--outputs", 3000)
    code, _, err = run(capsys, "verify", "engine", "--method", "consmax", *wider, "--inject-fault", "--seed", 2)
    assert code == 1
    assert "the hardware differs from the exact integers" in err


@pytest.mark.slow
@verilator
def test_synth_compares_the_netlist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sizes = ("--rows", 1, "--columns", 1, "--channels", 2, "--keys", 4, "--storage", "memory", "--clock", 12)
    command = ("synth", "engine", "--method", "consmax", *sizes, "--json", tmp_path / "record.json", "-o", tmp_path)
    code, _, err = run(capsys, *command)
    assert code == 0, err
    (result,) = json.loads((tmp_path / "record.json").read_text())["results"]
    assert (result["faults"], result["mismatches"]) == ([], 0)
    assert result["compared"] > 100
    assert set(result["memories"]) == {"key_memory", "value_memory"}
    assert (tmp_path / "engine_consmax_element.v").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "engine"), "an engine takes --method or --spec FILE"),
        (("verify", "engine", "--method", "consmax", "--lanes", 2), "leave --lanes out"),
        (("verify", "consmax", "--rows", 2), "'engine' in place of METHOD; leave --rows out"),
        (("rtl", "consmax", "--pipeline", "deferred"), "leave --pipeline out"),
        (("rtl", "engine", "--method", "consmax", "--tkeep"), "leave --tkeep out"),
        (("synth", "engine", "--method", "consmax", "--pareto"), "leave --pareto out"),
        (("synth", "engine", "--method", "consmax", "--columns", 5), "columns of an engine divide its 64 channels"),
        (("rtl", "engine", "--method", "consmax", "--channels", 0), "channels of an engine is a whole number from 1"),
        (("verify", "engine", "--method", "exaq", "--pipeline", "deferred"), "hardware that divides after"),
        (("verify", "engine", "--method", "softmax"), "softmax"),
    ],
    ids=str,
)
def test_refuses(capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in last_line(err)


def test_a_spec_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(Softermax(maximum="global").to_json()))
    code, _, err = run(capsys, "verify", "engine", "--spec", path, "--pipeline", "deferred")
    assert code == 2
    assert 'requires maximum="online"' in last_line(err)
