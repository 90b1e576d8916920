"""Units as components of hwcomponents, looked up with the tool where it is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_records import MADE, write_records

from softmaxkit.methods import METHODS
from softmaxkit.simulation.accelforge import PACKAGE, write_package
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.simulate import SimulationOptions
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

SPECS = [METHODS["consmax"](), METHODS["softermax"]()]
NAMES = ["softmax_consmax_element", "softmax_softermax_token"]

LOOK_UP = """
import sys
from hwcomponents import get_action_cost, get_area, get_models
models = get_models(sys.argv[1], include_installed=False)
for name in sys.argv[2:]:
    cost = get_action_cost(name, {"keys": 1024}, "compute", {}, models=models)
    print(name, getattr(cost, "value", cost).energy, getattr(cost, "value", cost).latency)
"""


def package(tmp_path: Path) -> list[str]:
    records = write_records(tmp_path / "records", *SPECS, waits=False)
    hardware = read_hardware("edge-npu")
    options = SimulationOptions(
        PUBLISHED["gpt2"], hardware, SPECS, ["element", "token"], "generation", [1024], [], records
    )
    return write_package(tmp_path / "out", options)


def test_the_package_has_a_component_for_each_unit(tmp_path: Path) -> None:
    assert package(tmp_path) == NAMES
    text = (tmp_path / "out" / PACKAGE / "__init__.py").read_text()
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert classes == ["SoftmaxConsmaxElement", "SoftmaxSoftermaxToken"]
    assert f"energy={MADE['energy_pj_per_element'] * 1e-12!r}" in text
    assert PACKAGE in (tmp_path / "out" / "pyproject.toml").read_text()


@pytest.mark.skipif(
    find_spec("hwcomponents") is None,
    reason="hwcomponents is not installed: pip install accelforge (Python 3.12 or later)",
)
def test_hwcomponents_finds_the_units(tmp_path: Path) -> None:
    package(tmp_path)
    command = [sys.executable, "-c", LOOK_UP, PACKAGE, *NAMES]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path / "out", check=False, env={"PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.strip().splitlines()]
    assert [name for name, *_ in lines] == NAMES
    assert all(float(energy) == pytest.approx(MADE["energy_pj_per_element"] * 1e-12) for _, energy, _ in lines)
    # A row waits in the one and not in the other.
    assert float(lines[0][2]) < float(lines[1][2])
