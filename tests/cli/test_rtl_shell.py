"""`softmaxkit rtl` with a shell: its files, messages and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import SMALL, last_line, run, yosys


@yosys
def test_a_unit_in_its_shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    options = ("--tkeep", "--status", "--axi-lite", "--tags", 2)
    code, _, err = run(capsys, "rtl", "consmax", *SMALL, *options, "-o", folder, "--name", "unit", "--json", "-")
    assert code == 0, err
    assert {"unit.sv", "unit_shell.sv", "unit_axi.sv", "unit.rdl"} <= {path.name for path in folder.iterdir()}
    top = (folder / "unit_axi.sv").read_text()
    assert all(f" {port}" in top for port in ("s_axis_tkeep", "m_axis_tid", "s_axil_awaddr", "irq"))


@yosys
def test_the_record_contains_the_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    command = ("rtl", "softermax", *SMALL, "--storage", "memory", "--sram", "sky130", "--row-length")
    code, _, err = run(capsys, *command, "-o", tmp_path / "folder", "--json", path)
    assert code == 0, err
    inputs = json.loads(path.read_text())["inputs"]
    assert inputs["sram"] == "sky130"
    assert {name for name, value in inputs["shell"].items() if value} == {"row_length"}
    assert len([*(tmp_path / "folder").glob("sky130_sram_*.sv")]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("exact", "--axi-lite"), "AXI4-Lite would control nothing; add --row-length or --status"),
        (("exact", "--axi-lite", "--read-back"), "this unit of exact has no loadable constants to read back"),
        (("consmax", "--read-back"), "reading constants back needs AXI4-Lite; add --axi-lite or leave --read-back out"),
        (("consmax", "--axi-lite", "--constants", "baked"), "has no loadable constants"),
        (("consmax", "--tags", 1), "the number of tags is from 2 to 256, not 1;"),
        (("consmax", "--tags", 1000), "the number of tags is from 2 to 256, not 1000"),
        (("exact", "--register-slice", "score"), "a register slice is for scores, results, both, not 'score'"),
        (("consmax", "--sram", "sky130"), "storage 'flip-flops' and buffers no rows"),
        (("exact", "--sram", "sky130"), "use --storage memory"),
        (
            ("exact", "--sram", "mine", "--storage", "memory"),
            "an SRAM macro is sky130 or NAME:WIDTHxDEPTH[/BITS], not 'mine'",
        ),
    ],
    ids=str,
)
def test_refusals(
    options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "rtl", *options, *SMALL, "-o", tmp_path / "folder")
    assert code == 2
    assert message in " ".join(err.split())
    assert last_line(err).startswith("error: ")
    assert list(tmp_path.iterdir()) == []
