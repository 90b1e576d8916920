"""Whole models on chips: conservation, memory limits, and how engines share heads."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_records import write_records

from softmaxkit.cli import main
from softmaxkit.cli.screen import Screen
from softmaxkit.cli.simulation_tables import chips_table, energy_lines, simulation_table
from softmaxkit.engine.cycles import times
from softmaxkit.engine.engine import Engine
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.report.simulation_charts import curve
from softmaxkit.simulation.chip import queries_of, run
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.energy import bill
from softmaxkit.simulation.hardware import Hardware, read_hardware
from softmaxkit.simulation.pipelines import engine_of, pipelines_of
from softmaxkit.simulation.simulate import SimulationOptions, simulate
from softmaxkit.simulation.workload import PUBLISHED, Workload

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

EDGE = read_hardware("edge-npu")
SMALL = Workload("small", 2, 4, 2, 32, True, "for tests")
CONSMAX, SOFTERMAX = METHODS["consmax"](), METHODS["softermax"]()
BUILT: dict[tuple[Any, ...], Engine] = {}


@pytest.fixture(autouse=True)
def engines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the engine for the same arrays and rows once, whatever else of the hardware changes."""

    def once(spec: Spec, pipeline: str, hardware: Hardware, *sizes: int) -> Engine:
        key = (spec, pipeline, hardware.arrays, *sizes)
        if key not in BUILT:
            BUILT[key] = engine_of(spec, pipeline, hardware, *sizes)
        return BUILT[key]

    monkeypatch.setattr("softmaxkit.simulation.simulate.engine_of", once)


def changed(hardware: Hardware, **keys: Any) -> Hardware:
    """Return hardware with changed keys; nested ones are written as `dram__bandwidth_gb_per_s`."""
    for key, value in keys.items():
        part, _, name = key.rpartition("__")
        inner = replace(getattr(hardware, part), **{name: value}) if part else value
        hardware = replace(hardware, **{part or name: inner})
    return hardware


def results(hardware: Hardware, workload: Workload = SMALL, phase: Any = "generation", **options: Any) -> list[Any]:
    chosen = {
        "specs": [CONSMAX, SOFTERMAX],
        "pipelines": ["element", "token"],
        "contexts": [256],
        "chips": [],
        "records": Path("none"),
    }
    return simulate(SimulationOptions(workload, hardware, phase=phase, **{**chosen, **options}), [], print)["results"]


def test_without_a_memory_limit_cycles_are_those_of_the_engine() -> None:
    """With one engine, the total is the recurrence of that engine over all heads, times the layers."""
    hardware = changed(EDGE, engines=1, dram__bandwidth_gb_per_s=1e9)
    for spec in (CONSMAX, SOFTERMAX):
        engine = engine_of(spec, pipelines_of(spec)[0], hardware, SMALL.channels, 256)
        (result,) = results(hardware, specs=[spec])
        layer = times(engine, [256] * SMALL.heads)[-1].last + 1
        assert result["cycles"] == SMALL.layers * layer
        assert result["memory_percent"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("phase", ["prompt", "generation"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kib", [1, 16, 256])
@pytest.mark.parametrize("bandwidth", [0.1, 10.0, 1e6])
def test_the_parts_of_the_time_add_up(phase: str, double: bool, kib: int, bandwidth: float) -> None:
    hardware = changed(
        EDGE, buffers__double=double, buffers__key_kib=kib, buffers__value_kib=kib, dram__bandwidth_gb_per_s=bandwidth
    )
    for result in results(hardware, phase=phase):
        parts = [result[f"{name}_percent"] for name in ("busy", "memory", "unit", "drain")]
        assert sum(parts) == pytest.approx(100)
        assert min(parts) >= -1e-9
        assert result["computed_cycles"] <= result["cycles"]
        assert result["seconds"] >= result["moved_bytes"] / (bandwidth * 1e9)  # within the memory bandwidth
        assert 0 < result["utilization_percent"] <= 100


def test_more_of_anything_never_takes_longer() -> None:
    for key, values in (
        ("dram__bandwidth_gb_per_s", (0.1, 1.0, 10.0, 1000.0)),
        ("buffers__key_kib", (1, 8, 64)),
        ("engines", range(1, 14)),
    ):
        # Engines that start together share the memory for their first keys, so each takes some cycles longer.
        chip = changed(EDGE, dram__bandwidth_gb_per_s=1e9) if key == "engines" else EDGE
        for phase in ("prompt", "generation"):
            slower: list[int] | None = None
            for value in values:
                cycles = [result["cycles"] for result in results(changed(chip, **{key: value}), phase=phase)]
                assert slower is None or all(new <= old for new, old in zip(cycles, slower, strict=True)), (key, value)
                slower = cycles


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-70b"])
def test_an_engine_too_many_for_an_even_distribution_is_idle(name: str) -> None:
    """More engines only take some cycles longer to load their first keys, which share the memory."""
    workload = PUBLISHED[name]
    for context in (1024, 5000):
        cycles = [
            results(changed(EDGE, engines=engines), workload, specs=[CONSMAX], contexts=[context])[0]["cycles"]
            for engines in range(workload.key_heads, 14)
        ]
        assert all(more < 1.001 * fewer for fewer, more in pairwise(cycles)), (context, cycles)


def test_engines_share_a_head_if_they_outnumber_the_heads() -> None:
    hardware = changed(EDGE, engines=8, dram__bandwidth_gb_per_s=1e9)
    engine = engine_of(CONSMAX, "element", hardware, SMALL.channels, 256)
    queries = queries_of(SMALL, "prompt", 256)
    done = run(SMALL, hardware, Pace(engine), queries)
    assert done.engines_per_head >= 4
    alone = run(SMALL, changed(hardware, engines=1), Pace(engine), queries)
    assert done.cycles < 0.15 * alone.cycles
    assert done.multiplications == alone.multiplications


@pytest.mark.parametrize("kib", [1, 256])
def test_engines_without_a_head_load_nothing(kib: int) -> None:
    """Two key heads, each with two queries, occupy four engines."""
    chip = changed(EDGE, buffers__key_kib=kib, buffers__value_kib=kib, dram__bandwidth_gb_per_s=1.0)
    cycles = {tuple(result["cycles"] for result in results(changed(chip, engines=engines))) for engines in (4, 8, 16)}
    assert len(cycles) == 1


def test_heads_that_do_not_divide_the_engines_are_dealt_out() -> None:
    """Three query heads per key head, so that every additional engine has work."""
    grouped = replace(SMALL, heads=6)
    chip = changed(EDGE, dram__bandwidth_gb_per_s=1e9)
    cycles = [
        results(changed(chip, engines=engines), grouped, "prompt", specs=[CONSMAX])[0]["cycles"]
        for engines in (1, 2, 4, 8)
    ]
    for fewer, more in pairwise(cycles):
        assert more < 0.6 * fewer


def test_buffers_smaller_than_a_tile_are_refused() -> None:
    hardware = changed(EDGE, buffers__key_kib=0.5)
    with pytest.raises(
        ValueError, match=r"buffers\.key_kib must have room for two tiles of arrays\.rows keys of 128 channels"
    ):
        results(hardware, replace(SMALL, channels=128))


def test_a_row_unit_waits_and_an_element_unit_does_not() -> None:
    hardware = changed(EDGE, engines=4, dram__bandwidth_gb_per_s=1e9)
    element, token = results(hardware, contexts=[4096])
    assert element["drain_percent"] < 5
    assert token["drain_percent"] > 30


def test_the_largest_takes_seconds() -> None:
    began = time.monotonic()
    simulated = results(read_hardware("tpu-like"), PUBLISHED["llama-70b"], "prompt", contexts=[1 << 20])
    simulated += results(read_hardware("tpu-like"), PUBLISHED["llama-70b"], contexts=[1 << 20])
    assert time.monotonic() - began < 10
    assert all(result["cycles"] > 1e6 for result in simulated)


def test_energy_is_that_of_the_parts(tmp_path: Path) -> None:
    records = write_records(tmp_path, CONSMAX, waits=False)
    (result,) = results(EDGE, specs=[CONSMAX], records=records)
    scores = SMALL.layers * SMALL.heads * 256
    assert result["energy_uj_by_part"]["softmax unit"] == pytest.approx(1e-6 * scores * 10.0)
    assert result["energy_uj_by_part"]["DRAM"] == pytest.approx(8e-6 * result["moved_bytes"] * 8)
    assert sum(result["energy_uj_by_part"].values()) == pytest.approx(result["energy_uj"])
    assert sum(result["area_mm2_by_part"].values()) == pytest.approx(result["area_mm2"])
    assert set(result["area_mm2_by_part"]) <= set(result["sources"])
    assert "row memory" not in result["area_mm2_by_part"]


def test_engines_that_share_a_head_write_their_own_buffers(tmp_path: Path) -> None:
    records = write_records(tmp_path, CONSMAX, waits=False)
    engine = engine_of(CONSMAX, "element", EDGE, SMALL.channels, 256)
    done = run(SMALL, EDGE, Pace(engine), queries_of(SMALL, "prompt", 256))
    costs = Costs(EDGE, CONSMAX, "element", engine.sizes, 256, records)
    alone, shared = (bill(costs, replace(done, engines_per_head=share)).energy_uj for share in (1, 4))
    word = costs.sizes.word_bits // 8
    for name, size in (("key buffer", EDGE.buffers.key_bytes), ("value buffer", EDGE.buffers.value_bytes)):
        write, _ = costs.access(costs.buffer(size))
        copies = 3 * done.loaded_bytes / 2 / word * write
        assert shared[name] - alone[name] == pytest.approx(1e-6 * copies)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpt2", "--context", "many"], "must be a number of tokens, e.g. 1024, 128k or 1M, got 'many'"),
        (["gpt2", "--context", "1000M"], "must be at most 16M tokens, got '1000M'"),
        (["gpt2", "--context", "9" * 5000], "must be at most 16M tokens"),
        (["gpt2", "--json", "none/x", "--html", "none/../none/x"], "two options would write none/../none/x"),
        (["gpt2", "--pipeline", "fast"], "--pipeline must be "),
        (["gpt2", "--method", "exaq", "--pipeline", "element"], "no selected method has the pipeline element"),
        (["bert-base", "--generate"], "not causal"),
        (["gpt2", "--hardware", "none"], "'none' is neither built-in hardware"),
    ],
)
def test_wrong_arguments_get_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, record = tmp_path / "page.html", tmp_path / "record.json"
    words = ["simulate", "gpt2", "--generate", "--context", "128", "--context", "1k", "--method", "consmax"]
    files = [
        "--json",
        str(record),
        "--html",
        str(page),
        "--records",
        str(write_records(tmp_path, CONSMAX, waits=False)),
    ]
    assert main([*words, *files, "--chips", "2"]) == 0
    out = capsys.readouterr().out
    assert "Attention of gpt2 on Edge NPU, per token" in out
    assert "Keys split over chips" in out
    text = page.read_text(encoding="utf-8")
    assert "Timeline of an engine over the last queries of a head" in text
    assert '<td class="text long">all</td>' in text
    assert "timeline-chart" in text or "timeline-figure" in text
    assert '"energy_uj_per_token"' in record.read_text(encoding="utf-8")


def test_no_number_is_cut_and_no_row_repeated(tmp_path: Path) -> None:
    words = ["simulate", "llama-70b", "--context", "1M", "--context", "1024k", "--records", str(tmp_path)]
    words += ["--method", "softermax", "--method", "softermax", "--pipeline", "token", "--chips", "4", "--chips", "4"]
    record = tmp_path / "record.json"
    assert main([*words, "--json", str(record)]) == 0
    (result,) = json.loads(record.read_text())["results"]
    assert [system["chips"] for system in result["chips"]] == [4]
    for table in (simulation_table(json.loads(record.read_text())), chips_table([result])):
        with (console := Screen(width=80)).capture() as shown:
            console.print(table)
        assert "\N{HORIZONTAL ELLIPSIS}" not in shown.get()


def test_parts_without_records_are_named_once_per_command(tmp_path: Path) -> None:
    records = tmp_path / "a folder; run or not"
    (records / "accelerator").mkdir(parents=True)
    chosen = results(EDGE, specs=[SOFTERMAX], pipelines=None, records=records)
    lines = [line for line in energy_lines(chosen) if line.startswith("no total energy: ")]
    commands = {missing["command"] for result in chosen for missing in result["without_energy"]}
    assert len(lines) == len(commands) < 5
    assert all(any(line.endswith(f"; run {command}") for line in lines) for command in commands)
    assert all(Path(shlex.split(command)[-1]).parent == records / "accelerator" for command in commands)
    assert any("QK array" in line and "PV array" in line for line in lines)


def test_engines_of_chips_keep_buffers_and_rows_in_memory() -> None:
    engine = engine_of(SOFTERMAX, "token", EDGE, 33, 256)
    assert set(engine.memories) == {"power_memory", "key_memory", "value_memory"}
    assert vars(engine.sizes) == {"rows": 16, "columns": 16, "channels": 48, "max_keys": 256}  # of whole columns


def test_variants_of_a_method_differ_in_a_curve() -> None:
    variants = [METHODS["consmax"](), METHODS["consmax"](bits=16)]
    chosen = results(EDGE, specs=variants, contexts=[256, 512])
    names = [f"{result['method']} {result['spec'].get('bits')}" for result in chosen]
    figure = curve(chosen, names, {"consmax": SimpleNamespace(colour="#0072b2")}, "cycles")  # type: ignore[dict-item]
    looks = [(line.line.color, line.line.dash, line.marker.symbol) for line in figure.data]
    assert len(set(looks)) == 2
