"""Hardware files: the built-in ones, and errors that give the path of the key."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from made_records import write_records

from softmaxkit.cli import main
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.methods import METHODS
from softmaxkit.simulation.hardware import FOLDER, hardware_names, read_hardware

EDGE = (files(FOLDER) / "edge-npu.yaml").read_text(encoding="utf-8")


def edge(tmp_path: Path, old: str, new: str) -> str:
    assert old in EDGE
    path = tmp_path / "mine.yaml"
    path.write_text(EDGE.replace(old, new), encoding="utf-8")
    return str(path)


def test_built_in_hardware_is_read() -> None:
    assert hardware_names() == ["edge-npu", "softermax-element", "tpu-like"]
    for name in hardware_names():
        hardware = read_hardware(name)
        assert hardware.to_json()["arrays"]["rows"] == hardware.arrays.rows
    assert read_hardware("softermax-element").arrays.rows == 32


def test_units_are_those_of_the_names() -> None:
    hardware = read_hardware("edge-npu")
    assert hardware.bytes_per_cycle == pytest.approx(12.8e9 / 100e6)
    assert hardware.seconds(100e6) == pytest.approx(1.0)
    assert hardware.buffers.key_bytes == 64 * 1024
    assert hardware.multipliers == 2 * 4 * 16 * 16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bandwidth_gb_per_s: 12.8", "bandwidth_gb_per_s: 0", r"dram\.bandwidth_gb_per_s must be a number from 1e-09"),
        (
            "bandwidth_gb_per_s: 12.8",
            "bandwidth_gb_per_s: .inf",
            r"dram\.bandwidth_gb_per_s must be a number from 1e-09",
        ),
        (
            "bandwidth_gb_per_s: 12.8",
            "bandwidth_gb_per_s: 12.8 GB",
            r"dram\.bandwidth_gb_per_s must be a number from 1e-09",
        ),
        (
            "bandwidth_gb_per_s: 12.8",
            "bandwidth: 12.8",
            r"dram\.bandwidth is unknown; did you mean 'bandwidth_gb_per_s'",
        ),
        ("  energy_pj_per_bit: 8\n", "", r"dram\.energy_pj_per_bit is missing: energy per bit"),
        ("clock_mhz: 100", "clock: 100", r"clock is unknown; did you mean 'clock_mhz'"),
        (
            "clock_mhz: 100",
            "clock_mhz: yes",
            r"clock_mhz must be a number from 1e-09 to 1e\+12 \(clock of the engines in MHz\), got True",
        ),
        ("clock_mhz: 100", "clock_mhz: .nan", r"clock_mhz must be a number from 1e-09 to 1e\+12 .*, got nan"),
        ("clock_mhz: 100", "clock_mhz: 1e2", r"got '1e2'; YAML reads it as a string: .* e\.g\. 1\.0e\+2"),
        (
            "bandwidth_gb_per_s: 12.8",
            "bandwidth_gb_per_s: 1.0e-300",
            r"must be a number from 1e-09 to 1e\+12 .*got 1e-300",
        ),
        ("engines: 4", "engines: 0", r"engines must be an integer from 1"),
        ("engines: 4", "engines: 2.5", r"engines must be an integer from 1"),
        ("engines: 4", "engines: 4\nengines: 5", r"the key engines in line \d+ is a duplicate"),
        ("rows: 16", "rows: 512", r"arrays\.rows must be an integer from 1 to 256"),
        ("columns: 16", "columns: 512", r"arrays\.columns must be an integer from 1 to 256"),
        ("key_kib: 64", "key_kib: 0.1", r"buffers\.key_kib must have room for arrays\.rows x arrays\.columns bytes"),
        ("double: true", "double: 2", r"buffers\.double must be true or false"),
        ("process: sky130", "process: tsmc5", r"process must be sky130 or asap7, got 'tsmc5'"),
        ("name: Edge NPU", "name: ''", r"name must be a non-empty string"),
        ("name: Edge NPU", "name: [", r"this is not valid YAML"),
        ("name: Edge NPU", f"name: {'[' * 400}", r"this is not valid YAML"),
        ("engines: 4", f"engines: {'4' * 5000}", r"this is not valid YAML"),
        ("name: Edge NPU", "name: &a {b: *a}", r"the alias \*a in line \d+ is not supported; write out"),
        ("name: Edge NPU", "name: &a [*a]", r"the alias \*a in line \d+ is not supported; write out"),
        ("value_kib: 64", "value_kib: 64\n  <<: *all", r"this is not valid YAML: found undefined alias 'all'"),
    ],
)
def test_what_is_refused_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_hardware(edge(tmp_path, old, new))
    assert str(tmp_path / "mine.yaml") in str(raised.value)


def test_sizes_up_to_the_engines_own_are_read(tmp_path: Path) -> None:
    wide = EDGE.replace("rows: 16", "rows: 256").replace("columns: 16", "columns: 256")
    (tmp_path / "wide.yaml").write_text(wide, encoding="utf-8")
    arrays = read_hardware(str(tmp_path / "wide.yaml")).arrays
    assert EngineSizes(arrays.rows, arrays.columns, 1024, 1024).word_bits == 8 * 256 * 256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "key_kib: 64",
            "key_kib: 1",
            r"buffers\.key_kib must have room for two tiles of arrays\.rows keys of 64 channels",
        ),
        ("rows: 16", "rows: 3", r"arrays\.rows 3, arrays\.columns 16 and softermax: "),
        ("clock_mhz: 100", "clock_mhz: 121", r"clock_mhz: the .* reaches 1\d\d MHz .*, not 121"),
    ],
)
def test_what_cannot_run_names_the_file(
    tmp_path: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, records = edge(tmp_path, old, new), write_records(tmp_path, METHODS["softermax"]().for_hardware())
    words = ["simulate", "gpt2", "--hardware", file, "--method", "softermax", "--records", str(records)]
    assert main(words) == 2
    assert re.search(f"{file}: {message}", capsys.readouterr().err)


def test_other_files_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'edge-npu'"):
        read_hardware("edge")
    with pytest.raises(ValueError, match="cannot read the hardware"):
        read_hardware(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="hardware must be a mapping with the keys name, process"):
        read_hardware(str(tmp_path / "list.yaml"))
