"""Tables of docs/accelerator.md, cell by cell against the records that they name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from doc_tables import ROOT, results, rows, shows, wrong
from softmaxkit.methods import METHODS
from softmaxkit.methods.softermax.claims import ELEMENT_AREA, ELEMENT_EFFICIENCY
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.simulate import SimulationOptions, simulate
from softmaxkit.simulation.workload import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")


FIGURES = ("area", "energy")


def generated(method: str, pipeline: str) -> list[dict[str, Any]]:
    """Return the results of a token of GPT-2 at contexts of 1k, 16k and 128k."""
    name = method.split(",")[0].lower()
    by_context = {
        r["context"]: r
        for r in results("accelerator/generation-gpt2.json")
        if (r["method"], r["pipeline"]) == (name, pipeline)
    }
    return [by_context[1024 * context] for context in (1, 16, 128)]


def test_pipelines_in_the_docs() -> None:
    table = rows("docs/accelerator.md", "| method | pipeline | cycles with keys loaded")
    assert len(table) == 6
    for method, pipeline, *cells in table:
        short, middle, long = generated(method, pipeline)
        values = [r["computed_cycles"] for r in (short, middle, long)]
        values += [r["stall_percent"] for r in (short, long)] + [r["cycles"] for r in (short, long)]
        assert all(shows(cell, value) for cell, value in zip(cells, values, strict=True)), (method, pipeline)


def test_energy_and_area_of_a_token_in_the_docs() -> None:
    table = rows("docs/accelerator.md", "| method | pipeline | total, µJ")
    assert len(table) == 6
    for method, pipeline, *cells in table:
        runs = generated(method, pipeline)

        def parts(result: dict[str, Any], figure: str, *names: str) -> float:
            return float(sum(result[figure].get(name, 0) for name in names))

        values = [run["energy_uj"] for run in runs]
        values += [parts(run, "energy_uj_by_part", "softmax unit", "row memory") for run in runs]
        values += [parts(run, "energy_uj_by_part", "QK array", "PV array") for run in runs[::2]]
        values += [parts(run, "area_mm2_by_part", "row memory") for run in runs[::2]]
        values += [run["area_mm2"] for run in runs[::2]]
        wrong = [(cell, value) for cell, value in zip(cells, values, strict=True) if not shows(cell, value)]
        assert wrong == [], (method, pipeline)


def test_many_chips_in_the_docs() -> None:
    table = rows("docs/accelerator.md", "| method | exchanges |")
    measured = results("accelerator/scale-out-llama-70b.json")
    assert len(table) == len(measured)
    for (label, *cells), result in zip(table, measured, strict=True):
        assert label.endswith(result["pipeline"])
        chips = {run["chips"]: run for run in result["chips"]}
        values = [chips[4]["exchanges"], chips[4]["bytes_per_query"]]
        values += [1e3 * chips[n]["waiting_seconds"] for n in (4, 64, 1024)]
        values += [1e3 * chips[n]["seconds"] for n in (1, 4, 64, 256, 1024)]
        assert all(shows(cell, value) for cell, value in zip(cells, values, strict=True)), (label, values)


def test_engines_in_verification() -> None:
    """Methods with baked and with loadable constants have a row for both."""
    measured: dict[tuple[str, str], list[int]] = {}
    record = json.loads((ROOT / "results" / "verification" / "engine.json").read_text())
    for result in record["results"]:
        title = record["methods"][result["method"]]["title"]
        counts = measured.setdefault((title, result["pipeline"]), [0, 0, 0, 0])
        figures = (result["compared"], result["mismatches"], result["cycles"], 1)
        counts[:] = [total + one for total, one in zip(counts, figures, strict=True)]
    table = rows("docs/accelerator.md", "| method | pipeline | outputs | different | cycles |")
    assert len(table) == len(measured)
    for method, pipeline, *cells in table:
        title, _, kinds = method.partition(", ")
        *values, runs = measured[title, pipeline]
        assert runs == (2 if kinds == "baked and loadable" else 1)
        assert wrong(cells, values) == [], (method, pipeline)


PARTS = {
    "ours: unit": ("softmax unit",),
    "ours: unit and both arrays": ("softmax unit", "QK array", "PV array"),
    "ours: unit, arrays and the memory of rows": ("softmax unit", "QK array", "PV array", "row memory"),
    "ours: all of it, with buffers": (
        *("softmax unit", "QK array", "PV array", "row memory"),
        *("key buffer", "value buffer"),
    ),
}


def test_the_element_of_the_softermax_paper() -> None:
    (_, *paper), *table = rows("docs/accelerator.md", "| Softermax over softmax in FP16, 32 wide, rows of 384 |")
    assert wrong(paper, [ELEMENT_AREA, 1 / ELEMENT_EFFICIENCY]) == []
    units = {r["method"]: r for r in results("accelerator/softermax-element.json") if r["pipeline"] == "token"}
    assert [label for label, *_ in table] == [*PARTS]
    for label, *cells in table:
        values = [
            sum(units["softermax"][figure][part] for part in PARTS[label])
            / sum(units["exact"][figure][part] for part in PARTS[label])
            for figure in ("area_mm2_by_part", "energy_uj_by_part")
        ]
        assert wrong(cells, values) == [], (label, values)


def test_heads_in_parallel() -> None:
    """The edge NPU with other numbers of engines, simulated here: cycles with keys loaded, and the stall in these."""
    hardware, gpt2 = read_hardware("edge-npu"), PUBLISHED["gpt2"]
    specs = [METHODS[name]().for_hardware() for name in ("exact", "softermax", "consmax")]
    table = rows("docs/accelerator.md", "| engines | heads apiece |")
    assert [int(engines) for engines, *_ in table] == [1, 2, 4, 12]
    for engines, heads, *cells in table:
        assert int(engines) * int(heads) == gpt2.heads
        chip = replace(hardware, engines=int(engines))
        options = SimulationOptions(gpt2, chip, specs, None, "generation", [1024], [], ROOT / "results" / "accelerator")
        measured = simulate(options, [], pytest.fail)["results"]
        assert [(r["method"], r["pipeline"]) for r in measured] == [
            *(("exact", "token"), ("exact", "deferred")),
            *(("softermax", "token"), ("softermax", "deferred")),
            ("consmax", "element"),
        ]
        for cell, result in zip(cells, measured, strict=True):
            cycles, stall = cell.strip(")").split(" (")
            assert wrong([cycles, stall], [result["computed_cycles"], result["stall_percent"]]) == [], engines


def test_the_hardware_files() -> None:
    for name, described in rows("docs/accelerator.md", "| name | hardware |"):
        chip = read_hardware(name.strip("`"))
        engines = f"{chip.engines} engine{'s' if chip.engines > 1 else ''}"
        assert described.startswith(f"{engines} of {chip.arrays.rows} x {chip.arrays.columns}"), name


def test_the_16_bit_unit_and_a_step_between_chips() -> None:
    text = (ROOT / "docs" / "accelerator.md").read_text(encoding="utf-8")
    (unit,) = results("accelerator/units-consmax-16-bit-1.json")
    assert f"{unit['area_um2']:,.0f} µm² and {unit['energy_pj_per_element']:.1f} pJ per score" in text
    layers = PUBLISHED["llama-70b"].layers
    steps = [
        1e6 * run["waiting_seconds"] / layers / run["steps_per_exchange"]
        for run in results("accelerator/scale-out-llama-70b.json")[0]["chips"][1:]
    ]
    assert all(f"{step:.1f} µs per step" in text for step in steps)


def test_errors_of_the_fits_to_arrays() -> None:
    """The worst of each group of arrays, as a source gives them, and the array that no fit includes."""
    text = " ".join((ROOT / "docs" / "accelerator.md").read_text(encoding="utf-8").split())
    sources: dict[str, list[str]] = {"exact": [], "exaq": [], "others": []}
    for result in results("accelerator/generation-gpt2.json"):
        for part in ("QK array", "PV array"):
            source = result["sources"][part]
            key = next((name for name in ("exact", "exaq") if f"arrays-{name}" in source), "others")
            sources[key].append(source)
    errors = {
        key: [max(float(re.findall(rf"{what} within ([\d.]+)%", source)[0]) for source in own) for what in FIGURES]
        for key, own in sources.items()
    }
    (area, energy), (exact_area, exact_energy), (wide_area, wide_energy) = (
        errors[key] for key in ("others", "exact", "exaq")
    )
    assert f"within {area}% in area and {energy}% in energy by the arrays of 8-bit" in text
    assert f"{exact_area}% and {exact_energy}% by those of Exact" in text
    assert f"{wide_area}% and {wide_energy}% by the PV array of 16-bit" in text
