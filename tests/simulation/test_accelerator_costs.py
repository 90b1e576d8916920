"""Area and energy of an engine's parts, read from records."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import MADE, array_area, record_of, write_records

from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.flow.sram import MACROS, arranged
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.costs import Costs, NoRecord, Part
from softmaxkit.simulation.fit import fit_costs
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.pipelines import pipelines_of

SPEC = METHODS["softermax"]()
EDGE = read_hardware("edge-npu")


def costs(records: Path, rows: int = 16, keys: int = 1024) -> Costs:
    return Costs(EDGE, SPEC, "token", EngineSizes(rows, 8, 64, 1024), keys, records)


def test_arrays_are_fitted_to_their_sizes(tmp_path: Path) -> None:
    made = costs(write_records(tmp_path, SPEC))
    for name in ("query-key", "value"):
        area = array_area(name, 16, 8, 64)
        part = made.array(name)
        assert part.area_um2 == pytest.approx(area)
        assert part.energy_pj == pytest.approx(area / 100)


def predicted(record: str) -> list[tuple[dict[str, Any], Part]]:
    """Return the arrays of a record, which no fit includes, with what the fit says of each."""
    pairs = []
    for result in json.loads((Path("results/accelerator") / record).read_text())["results"]:
        sizes = EngineSizes(*(result[name] for name in ("rows", "columns", "channels", "max_keys")))
        own = Costs(EDGE, Spec.from_json(result["spec"]), result["pipeline"], sizes, 1024, Path("results"))
        pairs.append((result, own.array(result["array"])))
    return pairs


def test_the_docs_say_what_large_arrays_cost_over_the_fit() -> None:
    text = " ".join(Path("docs/accelerator.md").read_text(encoding="utf-8").split())
    arrays = predicted("check-arrays-sky130.json")
    assert [result["array"] for result, _ in arrays] == ["query-key", "value"]
    areas = [result["area_um2"] / own.area_um2 for result, own in arrays]
    energies = [result["energy_pj_per_cycle"] / own.energy_pj for result, own in arrays]
    assert "{:.2f} times (QK) and {:.2f} times (PV) the predicted area".format(*areas) in text
    assert "{:.2f} and {:.2f} times the energy".format(*energies) in text


def test_costs_of_arrays_are_never_negative() -> None:
    """Netlists of small arrays differ by chance, which many channels must not multiply."""
    for method in ("exact", "softermax", "exaq"):
        spec = METHODS[method]().for_hardware()
        for pipeline in pipelines_of(spec):
            for name in ("query-key", "value"):
                parts = [
                    Costs(EDGE, spec, pipeline, EngineSizes(4, 4, channels, 1024), 1024, Path("results")).array(name)
                    for channels in (8, 128, 1024)
                ]
                assert 0 < parts[0].area_um2 <= parts[1].area_um2 <= parts[2].area_um2, (method, pipeline, name)
                assert 0 < parts[0].energy_pj <= parts[1].energy_pj <= parts[2].energy_pj, (method, pipeline, name)


def test_the_source_says_how_far_a_fit_may_be_trusted(tmp_path: Path) -> None:
    source = costs(write_records(tmp_path, SPEC)).array("value").source
    assert "5 netlists (area within 0.0%, energy within 0.0%)" in source
    assert source.endswith("extrapolated from 16 multipliers to 128")
    wide = replace(costs(tmp_path), sizes=EngineSizes(16, 8, 128, 1024))
    assert wide.array("value").source.endswith("from 16 multipliers to 128 and from 64 channels to 128")
    small = replace(costs(tmp_path), sizes=EngineSizes(2, 4, 8, 1024))
    assert "extrapolated" not in small.array("value").source


def test_fits_are_the_best_without_negative_costs() -> None:
    counts = [[4, 4, 1], [8, 4, 1], [8, 8, 1], [4, 8, 1]]
    exact = fit_costs(counts, [13, 21, 25, 17])
    assert exact.costs == pytest.approx([2, 1, 1])
    assert exact.error < 1e-12
    bounded = fit_costs(counts, [13, 21, 19, 11])  # ordinary least squares gives -0.5 for the second kind
    assert bounded.costs.min() == bounded.costs[1] == 0
    grid = np.mgrid[0:3:31j, 0:1:6j, 0:8:81j].reshape(3, -1).T
    errors = (grid @ np.asarray(counts).T / [13, 21, 19, 11] - 1) ** 2
    best = bounded.costs @ np.asarray(counts).T / [13, 21, 19, 11] - 1
    assert (best**2).sum() <= errors.sum(axis=1).min()
    assert bounded.error == pytest.approx(abs(best).max())


@pytest.mark.parametrize(("rows", "share"), [(16, 1), (24, 1.5), (32, 2)])
def test_units_are_taken_from_the_nearest_record(tmp_path: Path, rows: int, share: float) -> None:
    unit = costs(write_records(tmp_path, SPEC), rows).unit
    assert unit.area_um2 == share * float(MADE["area_um2"])
    assert unit.energy_pj == MADE["energy_pj_per_element"]
    assert ("times" in unit.source) == (share != 1)


@pytest.mark.parametrize("pipeline", ["token", "deferred"])
def test_a_wider_unit_is_not_scaled_down(pipeline: str, tmp_path: Path) -> None:
    """Sixteen lanes share what a unit of 8 has too, so half of their area is too little."""
    made = replace(costs(write_records(tmp_path, SPEC), 8), pipeline=pipeline)
    with pytest.raises(NoRecord, match=r"softermax .*with at most 8 lanes; run .* --lanes 8 .*-8(-sky130)?\.json"):
        _ = made.unit


def test_the_row_memory_is_sized_for_the_longest_row(tmp_path: Path) -> None:
    records = write_records(tmp_path, SPEC)
    for keys in (256, 4096, 1 << 20):
        ((made, energy),) = costs(records, keys=keys).unit_memories.values()
        # The record's memory has 4 words beyond the 16 of its longest row.
        assert made == arranged(160, keys // 16 + 4, MACROS["sky130"])
        # An access to a deeper memory activates no more macros than one to a shallow memory: five of 32 bits.
        assert energy == pytest.approx(5 * (made.macro.write + made.macro.read) / 16)


def test_a_recorded_memory_costs_what_its_record_says() -> None:
    """In its own size and lanes, where a read and a write share a cycle, and thus the macros' clock energy."""
    for path in sorted(Path("results/accelerator").glob("units-*.json")):
        (result,) = json.loads(path.read_text())["results"]
        spec = Spec.from_json(result["spec"])
        own = Costs(EDGE, spec, "token", EngineSizes(result["lanes"], 8, 64, 1024), result["max_row"], Path("results"))
        energy = sum(picojoules for _, picojoules in own.unit_memories.values())
        idle = sum(made.across * made.macro.idle for made, _ in own.unit_memories.values()) / result["lanes"]
        recorded = result["memory_energy_pj_per_element"]
        assert recorded <= energy <= recorded + idle + 1e-9, path.name


def test_a_missing_record_is_reported_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(NoRecord, match="softmaxkit synth softermax --lanes 16 --storage memory"):
        _ = costs(tmp_path).unit
    with pytest.raises(NoRecord, match=r"python -m softmaxkit\.simulation\.arrays --cells sky130 --method softermax"):
        costs(tmp_path).array("value")
    fast = replace(costs(tmp_path), hardware=replace(EDGE, clock_mhz=200))
    for part in (lambda: fast.unit, lambda: fast.array("value"), lambda: replace(fast, pipeline="deferred").unit):
        with pytest.raises(NoRecord, match=r" --clock 5 "):  # netlists for the clock of the chip
            part()
    wide = replace(costs(tmp_path), spec=replace(SPEC, slice_width=32))
    for part in (lambda: wide.unit, lambda: wide.array("value")):
        with pytest.raises(NoRecord, match="--spec FILE"):
            part()
    other = write_records(tmp_path, METHODS["exact"]())
    with pytest.raises(NoRecord, match="a unit of softermax"):
        _ = costs(other).unit


def test_a_command_for_a_record_does_not_overwrite_another(tmp_path: Path) -> None:
    """Processes and variants have names of their own; the kept records of the defaults in sky130 have not."""
    made = costs(tmp_path)
    other = replace(made, hardware=replace(EDGE, process="asap7"))
    variants = [replace(made, spec=replace(SPEC, slice_width=width)) for width in (8, 32)]
    files = []
    for own in (made, other, *variants):
        for part in (lambda own=own: own.unit, lambda own=own: own.array("value")):
            with pytest.raises(NoRecord) as raised:
                part()
            files.append(Path(str(raised.value).split("--json ")[1]).name)
    assert files[:4] == [
        *("units-softermax-16.json", "arrays-softermax-sky130.json"),
        *("units-softermax-16-asap7.json", "arrays-softermax-asap7.json"),
    ]
    assert len(set(files)) == len(files)


def test_arrays_of_another_method_with_equal_widths_are_used(tmp_path: Path) -> None:
    other, exact = METHODS["consmax"](), METHODS["exact"]()
    made = costs(write_records(tmp_path, other))
    assert made.array("value").area_um2 == pytest.approx(array_area("value", 16, 8, 64))
    floats = Costs(EDGE, exact, "token", made.sizes, 1024, tmp_path)
    assert floats.array("value") == made.array("value")
    with pytest.raises(NoRecord, match="the QK array of exact"):  # its scores are floating-point
        floats.array("query-key")
    late = Costs(EDGE, SPEC, "deferred", made.sizes, 1024, tmp_path)
    with pytest.raises(NoRecord, match="the PV array of softermax"):  # its sums are shifted, and divided at the end
        late.array("value")


@pytest.mark.parametrize(
    "text",
    ["{", "", "[]", "null", "3", *(json.dumps(record_of(results)) for results in (None, {}, ["x"])), "[" * 100_000],  # type: ignore[arg-type, list-item]
)
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    write_records(tmp_path, SPEC)
    (tmp_path / "accelerator" / "units-broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"units-broken\.json is not a record: .*; make it again"):
        _ = costs(tmp_path).unit


@pytest.mark.parametrize("schema", [2, True, 1.0, "1", None])
def test_a_record_of_another_schema_is_refused(schema: object, tmp_path: Path) -> None:
    write_records(tmp_path, SPEC)
    (tmp_path / "accelerator" / "units-other.json").write_text(json.dumps(record_of([]) | {"schema": schema}))
    with pytest.raises(ValueError, match=rf'units-other\.json must have "schema": 1, .* got {schema!r}; make it again'):
        _ = costs(tmp_path).unit


def test_a_figure_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = write_records(tmp_path, SPEC) / "accelerator"
    for path in sorted(folder.glob("*.json")):
        sound = path.read_text()
        results = json.loads(sound)["results"]
        texts = {"cells", "spec", "method", "max_keys", "array", "pipeline", "memories"}
        for name, value in product(set(results[0]) - texts, (True, "9", None, [])):
            path.write_text(json.dumps(record_of([result | {name: value} for result in results])))
            made = costs(tmp_path)
            message = re.escape(f"{path.name} has a result whose {name} must be a number, got {value!r}; make it again")
            with pytest.raises(ValueError, match=message):
                _ = made.unit, made.array("query-key")
        path.write_text(sound)
    path = folder / "units-made.json"
    path.write_text(path.read_text().replace('"width_bits": 160', '"width_bits": true'))
    with pytest.raises(ValueError, match=r"whose width_bits must be a number, got True"):
        _ = costs(tmp_path).unit_memories


def test_a_figure_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_records(tmp_path, SPEC) / "accelerator"
    for path in sorted(folder.glob("*.json")):
        sound = path.read_text()
        results = json.loads(sound)["results"]
        for name in set(results[0]) - {"cells", "spec", "method", "max_row", "max_keys"}:
            path.write_text(json.dumps(record_of([{k: v for k, v in r.items() if k != name} for r in results])))
            made = costs(tmp_path)
            with pytest.raises(ValueError, match=rf"{path.name} has a result without {name}; make it again"):
                _ = made.unit, made.unit_memories, made.array("query-key"), made.array("value")
        path.write_text(sound)


def test_a_clock_that_no_netlist_reaches_is_refused(tmp_path: Path) -> None:
    made = costs(write_records(tmp_path, SPEC))
    parts = {"QK array": made.array("query-key"), "softmax unit": made.unit}
    made.check_clock(parts)
    fast = replace(made, hardware=replace(EDGE, clock_mhz=115.0))
    with pytest.raises(ValueError, match="clock_mhz: the QK array of softermax in sky130 reaches 110 MHz"):
        fast.check_clock(parts)
