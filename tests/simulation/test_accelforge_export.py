"""Units as hwcomponents: their figures, and the package in the real tools if these are installed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from made_records import MADE, write_records

import doc_tables
from softmaxkit.engine.engine import Engine
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.deferred_unit import DeferredUnit
from softmaxkit.simulation.accelforge import PACKAGE, write_package
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.pipelines import LONGEST, engine_of
from softmaxkit.simulation.simulate import SimulationOptions
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

SPECS = {name: METHODS[name]().for_hardware() for name in ("consmax", "softermax", "exaq", "exact")}
ELEMENT, TOKEN, DEFERRED = "SoftmaxConsmaxElement", "SoftmaxSoftermaxToken", "SoftmaxSoftermaxDeferred"
CLASSES = {
    ELEMENT: ("consmax", "element"),
    TOKEN: ("softermax", "token"),
    DEFERRED: ("softermax", "deferred"),
    "SoftmaxExaq2BitsGaussianClipAccumulatorPlainToken": ("exaq", "token"),
    "SoftmaxExactToken": ("exact", "token"),
    "SoftmaxExactDeferred": ("exact", "deferred"),
}
NAMES = ["softmax_consmax_element", "softmax_softermax_token", "softmax_softermax_deferred"]
CLOCK_HZ = 100e6

LOOK_UP = """
import sys
from hwcomponents import get_action_cost, get_area, get_models
models = get_models(sys.argv[1], include_installed=False)
for name in sys.argv[2:]:
    for length in (256, 1024):
        cost = get_action_cost(name, {"length": length}, "compute", {}, models=models)
        cost = getattr(cost, "value", cost)
        print(name, length, cost.energy, cost.throughput)
"""


def write(
    folder: Path, records: Path, *contexts: int, columns: int = 16, methods: list[str] | None = None
) -> list[str]:
    hardware = read_hardware("edge-npu")
    hardware = replace(hardware, arrays=replace(hardware.arrays, columns=columns))
    specs = [SPECS[name] for name in methods or SPECS]
    options = SimulationOptions(PUBLISHED["gpt2"], hardware, specs, None, "generation", contexts, [], records)
    return write_package(folder, options, pytest.fail)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_records(tmp_path / "records", *SPECS.values())


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import an exported package, with a stand-in for hwcomponents."""

    class ComponentModel:
        def __init__(self, area: float, leak_power: float) -> None:
            self.area, self.leak_power = area, leak_power

    stand_in = ModuleType("hwcomponents")
    vars(stand_in).update(ActionCost=SimpleNamespace, ComponentModel=ComponentModel, action=lambda method: method)
    monkeypatch.setitem(sys.modules, "hwcomponents", stand_in)

    def loaded(folder: Path) -> Any:
        about = spec_from_file_location("written", folder / PACKAGE / "__init__.py")
        assert about is not None
        assert about.loader is not None
        module = module_from_spec(about)
        about.loader.exec_module(module)
        return module

    return loaded


def engine(name: str, keys: int, columns: int = 16) -> Engine:
    method, pipeline = CLASSES[name]
    hardware = read_hardware("edge-npu")
    return engine_of(
        SPECS[method], pipeline, replace(hardware, arrays=replace(hardware.arrays, columns=columns)), 64, keys
    )


def test_the_package_has_a_component_per_unit(tmp_path: Path, records: Path, load: Any) -> None:
    components = write(tmp_path / "out", records, 1024)
    module = load(tmp_path / "out")
    classes = [value for value in vars(module).values() if isinstance(value, type) and hasattr(value, "component_name")]
    assert {component.__name__ for component in classes} == {*CLASSES}
    assert {component.component_name for component in classes} == {*components}
    assert module.SoftmaxConsmaxElement.score_j == MADE["energy_pj_per_element"] * 1e-12
    assert PACKAGE in (tmp_path / "out" / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if at in (0, len(CLASSES) - 1) else pytest.mark.slow)
        for at, name in enumerate(CLASSES)
    ],
)
def test_figures_follow_the_length_of_a_row(tmp_path: Path, records: Path, load: Any, name: str) -> None:
    """An export for long rows gives the same figures for shorter rows as an export for those alone."""
    methods = [CLASSES[name][0]]
    write(tmp_path / "long", records, 1024, 131072, methods=methods)
    long = getattr(load(tmp_path / "long"), name)
    for length in (1, 16, 17, 100, 1024, 8192, 131072):
        write(tmp_path / str(length), records, length, methods=methods)
        short = getattr(load(tmp_path / str(length)), name)
        assert vars(long(length).compute()) == vars(short().compute())
        assert (long(length).area, long(length).leak_power) == (short().area, short().leak_power)
    assert long(131072).area >= long(1024).area
    with pytest.raises(ValueError, match="rows of 1 to 131072 scores, not 131073"):
        long(131073)


@pytest.mark.parametrize("name", CLASSES)
def test_throughput_includes_the_waiting_of_rows(tmp_path: Path, records: Path, load: Any, name: str) -> None:
    write(tmp_path / "out", records, 2 * LONGEST, methods=[CLASSES[name][0]])
    model = getattr(load(tmp_path / "out"), name)
    inside = engine(name, 1024).unit
    for length in (16, 100, 1024):
        beats = -(-length // 16)
        if isinstance(inside, DeferredUnit):
            assert inside.slice_beats == 1
            latency, interval = (beats - 1) * inside.pace + inside.delay(1), beats * inside.pace
        else:
            latency, interval = inside.latency(length), inside.interval(length)
        for rows in (1, 3):
            scores = rows * length
            without = model(length, rows, waits=False).compute().throughput
            assert scores / without * CLOCK_HZ == pytest.approx(rows * interval)
            within = model(length, rows).compute()
            assert scores / within.throughput * CLOCK_HZ == pytest.approx((rows - 1) * interval + latency)
            assert within.latency * CLOCK_HZ == pytest.approx(latency)
    # Rows longer than an engine is built for are extrapolated by a constant number of cycles per beat.
    once, twice = (length / model(length).compute().throughput for length in (LONGEST, 2 * LONGEST))
    last = (LONGEST - 16) / model(LONGEST - 16).compute().throughput
    assert twice - once == pytest.approx((once - last) * LONGEST / 16, rel=1e-6)


DOC_ROWS = {
    "Exact, token": "SoftmaxExactToken",
    "ConSmax, element": ELEMENT,
    "Softermax, token": TOKEN,
    "Softermax, deferred": DEFERRED,
    "EXAQ, 2 bits, token": "SoftmaxExaq2BitsGaussianClipAccumulatorPlainToken",
}


def test_the_waits_in_the_docs(tmp_path: Path, records: Path, load: Any) -> None:
    """AccelForge divides calls by throughput and adds operations up, here to what DRAM takes for the two products."""
    write(tmp_path / "out", records, 1024)
    module, hardware, channels = load(tmp_path / "out"), read_hardware("edge-npu"), PUBLISHED["gpt2"].channels
    moved = 2 * 1024 * channels + 2 * channels  # keys and values, a query and its output, of a byte each
    products = moved / (hardware.dram.bandwidth_gb_per_s * 1e9 / hardware.engines)
    table = doc_tables.rows("docs/accelerator.md", "| 1,024 keys, µs | softmax: as element-wise | with waits |")
    assert [label for label, *_ in table] == [*DOC_ROWS]
    for label, *cells in table:
        units = [getattr(module, DOC_ROWS[label])(1024, waits=waits) for waits in (False, True)]
        softmax = [1024 / unit.compute().throughput for unit in units]
        assert (
            doc_tables.wrong(
                cells, [1e6 * seconds for seconds in (*softmax, *(products + duration for duration in softmax))]
            )
            == []
        )


@pytest.mark.parametrize(("columns", "scores_per_second"), [(16, 0.4e9), (32, 0.8e9)])
def test_several_cycles_per_beat_slow_a_unit_down_in_proportion(
    tmp_path: Path, records: Path, load: Any, columns: int, scores_per_second: float
) -> None:
    # 16 lanes at 100 MHz; a beat of exact exponentials in the deferred pipeline takes 64 channels / columns.
    write(tmp_path / "out", records, 1024, columns=columns, methods=["exact"])
    unit = load(tmp_path / "out").SoftmaxExactDeferred
    assert unit(waits=False).compute().throughput == pytest.approx(scores_per_second)
    assert unit().compute().throughput < scores_per_second
    assert engine("SoftmaxExactDeferred", 1024, columns).unit.pace * scores_per_second == pytest.approx(16 * CLOCK_HZ)


def test_memories_equal_the_costs_at_every_length(tmp_path: Path, records: Path, load: Any) -> None:
    """The area of the row memory grows in steps, and none is skipped."""
    write(tmp_path / "out", records, 16384, methods=["softermax"])
    long = getattr(load(tmp_path / "out"), TOKEN)
    steps = [length for length, *_ in long.memories]
    assert len(steps) > 2
    for end in steps[:-1]:
        assert long(end).area < long(end + 1).area
        write(tmp_path / "next", records, end + 1, methods=["softermax"])
        assert getattr(load(tmp_path / "next"), TOKEN)().area == long(end + 1).area


def run(tmp_path: Path, *command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=tmp_path / "out",
        check=False,
        env={"PYTHONPATH": str(tmp_path / "out")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()


@pytest.mark.skipif(
    find_spec("hwcomponents") is None,
    reason="hwcomponents is not installed: pip install accelforge (Python 3.12 or later)",
)
def test_hwcomponents_finds_the_units(tmp_path: Path, records: Path) -> None:
    write(tmp_path / "out", records, 1024, methods=["consmax", "softermax"])
    lines = [line.split() for line in run(tmp_path, "-c", LOOK_UP, PACKAGE, *NAMES)]
    assert [name for name, *_ in lines[::2]] == NAMES
    energies = {(name, int(length)): float(figure) for name, length, figure, _ in lines}
    throughput = {(name, int(length)): float(figure) for name, length, _, figure in lines}
    # The deferred unit has no row memory: 80 pJ per cycle, for 16 scores.
    assert energies[NAMES[1], 256] > MADE["energy_pj_per_element"] * 1e-12
    assert energies[NAMES[2], 256] == pytest.approx(5e-12)
    # A row waits only in the token pipeline, for a time that grows with its length.
    assert throughput[NAMES[1], 1024] < 0.55 * throughput[NAMES[0], 1024]
    assert throughput[NAMES[1], 256] != throughput[NAMES[1], 1024]


@pytest.mark.skipif(
    find_spec("accelforge") is None,
    reason="AccelForge is not installed: pip install accelforge (Python 3.12 or later)",
)
def test_the_accelforge_example_includes_the_waiting_of_a_row(tmp_path: Path, records: Path) -> None:
    write(tmp_path / "out", records, 1024, methods=["consmax", "softermax"])
    lines = run(tmp_path, "attention.py", "512")
    assert [line.split(",")[0] for line in lines] == [name for name in NAMES for _ in range(2)]
    softmax = [float(line.split("softmax ")[1].split()[0]) for line in lines]
    attention = [float(line.split("attention ")[1].split()[0]) for line in lines]
    for place, name in enumerate((ELEMENT, TOKEN, DEFERRED)):
        inside = engine(name, 512).unit
        cycles = 31 + inside.delay(1) if isinstance(inside, DeferredUnit) else inside.latency(512)
        # 16 scores per cycle; figures are printed to a thousandth of a us.
        assert softmax[2 * place] == pytest.approx(0.32, abs=0.0006)
        assert softmax[2 * place + 1] == pytest.approx(1e6 * cycles / CLOCK_HZ, abs=0.0006)
        waits = softmax[2 * place + 1] - softmax[2 * place]
        assert attention[2 * place + 1] - attention[2 * place] == pytest.approx(waits, abs=0.0021)
    with pytest.raises(AssertionError, match="rows of 1 to 1024 keys, not 1025"):
        run(tmp_path, "attention.py", "1025")
