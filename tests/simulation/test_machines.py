"""Hardware files: those of the package, and what is refused, with the path of the key."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from softmaxkit.simulation.hardware import FOLDER, hardware_names, read_hardware

EDGE = (files(FOLDER) / "edge-npu.yaml").read_text(encoding="utf-8")


def edge(tmp_path: Path, old: str, new: str) -> str:
    assert old in EDGE
    path = tmp_path / "mine.yaml"
    path.write_text(EDGE.replace(old, new), encoding="utf-8")
    return str(path)


def test_the_packages_own_files_are_read() -> None:
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
        ("bandwidth_gb_per_s: 12.8", "bandwidth_gb_per_s: 0", r"dram\.bandwidth_gb_per_s is a number above 0"),
        ("bandwidth_gb_per_s: 12.8", "bandwidth_gb_per_s: .inf", r"dram\.bandwidth_gb_per_s is a number above 0"),
        ("bandwidth_gb_per_s: 12.8", "bandwidth_gb_per_s: 12.8 GB", r"dram\.bandwidth_gb_per_s is a number above 0"),
        (
            "bandwidth_gb_per_s: 12.8",
            "bandwidth: 12.8",
            r"dram\.bandwidth is unknown; did you mean 'bandwidth_gb_per_s'",
        ),
        ("  energy_pj_per_bit: 8\n", "", r"dram\.energy_pj_per_bit is missing: energy of a bit"),
        ("clock_mhz: 100", "clock: 100", r"clock is unknown; did you mean 'clock_mhz'"),
        (
            "clock_mhz: 100",
            "clock_mhz: yes",
            r"clock_mhz is a number above 0 \(clock of the engines in MHz\), not True",
        ),
        ("engines: 4", "engines: 0", r"engines is a whole number from 1"),
        ("engines: 4", "engines: 2.5", r"engines is a whole number from 1"),
        ("engines: 4", "engines: 4\nengines: 5", r"the key engines in line \d+ is there twice"),
        ("rows: 16", "rows: 512", r"arrays\.rows is a whole number from 1 to 256"),
        ("key_kib: 64", "key_kib: 0.1", r"buffers\.key_kib holds a tile of arrays\.rows x arrays\.columns bytes"),
        ("double: true", "double: 2", r"buffers\.double is true or false"),
        ("process: sky130", "process: tsmc5", r"process is sky130 or asap7, not 'tsmc5'"),
        ("name: Edge NPU", "name: ''", r"name is a text"),
        ("name: Edge NPU", "name: [", r"this is no YAML"),
    ],
)
def test_what_is_refused_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_hardware(edge(tmp_path, old, new))
    assert str(tmp_path / "mine.yaml") in str(raised.value)


def test_other_files_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'edge-npu'"):
        read_hardware("edge")
    with pytest.raises(ValueError, match="cannot read the hardware"):
        read_hardware(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="hardware has the keys name, process"):
        read_hardware(str(tmp_path / "list.yaml"))
