"""Hardware for Stream: what is written, and its example, run with the tool where it is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from made_records import MADE, write_records

from softmaxkit.methods import METHODS
from softmaxkit.simulation.costs import NoRecord
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.simulate import SimulationOptions
from softmaxkit.simulation.stream import SOFTMAX, write_stream
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

SPECS = [METHODS["consmax"](), METHODS["softermax"]()]


def options(records: Path) -> SimulationOptions:
    hardware = read_hardware("edge-npu")
    return SimulationOptions(PUBLISHED["gpt2"], hardware, SPECS, ["element", "token"], "prompt", [1024], [], records)


def test_the_unit_is_a_core_of_its_own(tmp_path: Path) -> None:
    written = write_stream(tmp_path, options(write_records(tmp_path / "records", *SPECS)))
    assert written == ["consmax-element", "softermax-token"]
    energies = {}
    for name in written:
        unit = yaml.safe_load((tmp_path / name / "softmax_unit.yaml").read_text())
        assert "Softmax" in unit["operator_types"]
        array = unit["operational_array"]
        assert array["sizes"] == [16]
        assert array["unit_area"] * 16 == pytest.approx(MADE["area_um2"])
        energies[name] = array["unit_energy"]
    # Stream takes a softmax apart, and prices each of its operators by this figure.
    assert energies["consmax-element"] == MADE["energy_pj_per_element"]
    assert energies["softermax-token"] * len(SOFTMAX) == MADE["energy_pj_per_element"]


def test_without_records_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoRecord, match="what the query-key of consmax costs"):
        write_stream(tmp_path / "out", options(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("stream", "onnx", "six", "pydot")),
    reason="Stream is not installed: pip install stream-dse six pydot (Python 3.12 or later)",
)
@pytest.mark.parametrize("name", ["consmax-element", "softermax-token"])
def test_the_example_runs_in_stream(tmp_path: Path, name: str) -> None:
    write_stream(tmp_path, options(write_records(tmp_path / "records", *SPECS)))
    command = [sys.executable, str(tmp_path / name / "attention.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cycles = float(done.stdout.strip().splitlines()[-1].removeprefix("cycles: "))
    # 64 queries on 256 keys of 64 channels, on arrays of 16 by 16: no schedule is faster than the multipliers.
    assert cycles >= 64 * 256 * 64 / (16 * 16)
