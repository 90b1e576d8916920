"""Hardware for Stream: the files, and the example, which is run if the tool is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_records import MADE, write_records

from softmaxkit.methods import METHODS
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.pipelines import engine_of
from softmaxkit.simulation.simulate import SimulationOptions, simulate
from softmaxkit.simulation.stream import READS, SOFTMAX, WRITES, write_stream
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

SPECS = [METHODS["consmax"](), METHODS["softermax"]()]
NAMES = ["consmax-element", "softermax-token", "softermax-deferred"]
KEYS = 256
"""The keys of the example, so that a core has room for no more."""

PRICE = "import attention; print(*attention.estimate())"

needs_stream = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("stream", "onnx", "six", "pydot")),
    reason="Stream is not installed: pip install stream-dse six pydot (Python 3.12 or later)",
)


def options(tmp_path: Path) -> SimulationOptions:
    # ConSmax stores no rows, so its record has no row memory.
    records = write_records(tmp_path / "records", SPECS[1])
    element = write_records(tmp_path / "element", SPECS[0], waits=False) / "accelerator"
    for path in element.iterdir():
        path.rename(records / "accelerator" / path.name.replace("made", "element"))
    hardware = read_hardware("edge-npu")
    return SimulationOptions(PUBLISHED["gpt2"], hardware, SPECS, None, "prompt", [KEYS], [], records)


def cores(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml") if path.stem != "hardware"}


def priced(folder: Path) -> tuple[float, float]:
    """Return cycles and pJ of the example."""
    command = [sys.executable, "-c", PRICE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cycles, energy = done.stdout.split()[-2:]
    return float(cycles), float(energy)


def test_the_unit_is_a_separate_core(tmp_path: Path) -> None:
    assert write_stream(tmp_path, options(tmp_path), pytest.fail) == NAMES
    energies = {}
    for name in NAMES[:2]:
        unit = yaml.safe_load((tmp_path / name / "softmax_unit.yaml").read_text())
        assert "Softmax" in unit["operator_types"]
        array = unit["operational_array"]
        assert array["sizes"] == [16]
        assert array["unit_area"] * 16 == pytest.approx(MADE["area_um2"])
        energies[name] = array["unit_energy"]
    # Stream decomposes a softmax and uses this figure for each of its operators.
    assert energies["consmax-element"] == MADE["energy_pj_per_element"]
    assert energies["softermax-token"] * len(SOFTMAX) == MADE["energy_pj_per_element"]


def test_areas_are_those_of_the_simulator(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    for name, result in zip(
        write_stream(tmp_path, chosen, pytest.fail), simulate(chosen, [], pytest.fail)["results"], strict=True
    ):
        assert name.split("-")[1] == result["pipeline"]
        memories = {
            name: memory["area"]
            for core, about in cores(tmp_path / name).items()
            for name, memory in about["memories"].items()
            if core != "dram"
        }
        assert memories.pop("registers") == 0
        of_parts = {"key buffer": "key_buffer", "value buffer": "value_buffer", "row memory": "row_memory"}
        areas = {part: result["area_mm2_by_part"].get(part, 0) * 1e6 / 4 for part in of_parts}  # of four engines
        assert {part: memories.pop(memory) for part, memory in of_parts.items()} == pytest.approx(areas)
        assert memories == {}
        assert (areas["row memory"] > 0) == (result["pipeline"] == "token")


def test_an_array_has_its_own_buffer_and_the_unit_that_of_its_rows(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    write_stream(tmp_path, chosen, pytest.fail)
    engine = engine_of(SPECS[1], "token", chosen.hardware, 64, KEYS)
    costs = Costs(chosen.hardware, SPECS[1], "token", engine.sizes, KEYS, chosen.records)
    token = cores(tmp_path / "softermax-token")
    for core, buffer, size in (
        ("qk_array", "key_buffer", chosen.hardware.buffers.key_bytes),
        ("pv_array", "value_buffer", chosen.hardware.buffers.value_bytes),
    ):
        memory = token[core]["memories"][buffer]
        assert memory["size"] == 8 * size
        assert memory["operands"] == ["I2"]
        assert (memory["w_cost"], memory["r_cost"]) == costs.access(costs.buffer(size))
    rows = token["softmax_unit"]["memories"]["row_memory"]
    # A word of 16 scores is written and read once in the unit, but WRITES and READS times in Stream.
    energy = sum(energy for _, energy in costs.unit_memories.values())
    assert (READS * rows["r_cost"] + WRITES * rows["w_cost"]) / 16 == pytest.approx(energy)
    for name in ("consmax-element", "softermax-deferred"):
        waits = cores(tmp_path / name)["softmax_unit"]["memories"]["row_memory"]
        assert (waits["r_cost"], waits["w_cost"], waits["area"]) == (0, 0, 0)


@needs_stream
@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs_in_stream(tmp_path: Path, name: str) -> None:
    write_stream(tmp_path, options(tmp_path), pytest.fail)
    cycles, energy = priced(tmp_path / name)
    # 64 queries on 256 keys of 64 channels, on arrays of 16 by 16: no schedule is faster than the multipliers, and the
    # arrays alone take as much energy.
    works = 64 * 256 * 64 / (16 * 16)
    assert cycles >= works
    of_arrays = (cores(tmp_path / name)[core]["operational_array"] for core in ("qk_array", "pv_array"))
    assert energy > sum(works * 16 * 16 * array["unit_energy"] for array in of_arrays)


@needs_stream
def test_row_memory_costs_the_same_in_stream(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    write_stream(tmp_path, chosen, pytest.fail)
    folder = tmp_path / "softermax-token"
    cycles, energy = priced(folder)
    unit = yaml.safe_load((folder / "softmax_unit.yaml").read_text())
    unit["memories"]["row_memory"] |= {"r_cost": 0.0, "w_cost": 0.0}
    (folder / "softmax_unit.yaml").write_text(yaml.safe_dump(unit))
    same, without = priced(folder)
    assert same == cycles
    engine = engine_of(SPECS[1], "token", chosen.hardware, 64, KEYS)
    costs = Costs(chosen.hardware, SPECS[1], "token", engine.sizes, KEYS, chosen.records)
    waiting = 64 * KEYS * sum(energy for _, energy in costs.unit_memories.values())
    # Maximum and sum add a word each to the 16 of a row, written and read; READS and WRITES apply to the row alone.
    assert waiting <= energy - without <= waiting * (1 + 2 / (16 * min(READS, WRITES)))
