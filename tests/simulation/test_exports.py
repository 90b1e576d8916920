"""Exports of several units to other tools: the units of the table, each with its own name, or none at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_records import record_of, write_records

from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.accelforge import write_package
from softmaxkit.simulation.costs import NoRecord
from softmaxkit.simulation.exports import exported
from softmaxkit.simulation.hardware import read_hardware
from softmaxkit.simulation.pipelines import CannotBuild
from softmaxkit.simulation.simulate import SimulationOptions, simulate
from softmaxkit.simulation.stream import write_stream
from softmaxkit.simulation.workload import PUBLISHED
from softmaxkit.studies.progress import Say

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")

CONSMAX, SOFTERMAX, EXACT = (METHODS[name]() for name in ("consmax", "softermax", "exact"))
CONSMAX_16 = METHODS["consmax"].from_json({"schema": 1, "method": "consmax", "bits": 16})
WRITERS = [write_stream, write_package]

Writer = Callable[[Path, SimulationOptions, Say], list[str]]


def options(
    records: Path, *specs: Spec, pipelines: Sequence[str] | None = None, model: str = "gpt2", hardware: str = "edge-npu"
) -> SimulationOptions:
    chip = read_hardware(hardware)
    return SimulationOptions(PUBLISHED[model], chip, specs, pipelines, "prompt", [1024], [], records)


def without_deferred(records: Path) -> Path:
    """Remove the records of the deferred pipeline."""
    path = records / "accelerator" / "arrays-made.json"
    results = json.loads(path.read_text())["results"]
    path.write_text(json.dumps(record_of([result for result in results if result["pipeline"] != "deferred"])))
    return records


@pytest.mark.parametrize("write", WRITERS)
def test_exports_leave_out_what_the_table_leaves_out(tmp_path: Path, write: Writer) -> None:
    # A beat of exact exponentials takes two cycles in the deferred pipeline, and one in the arrays.
    chosen = options(write_records(tmp_path / "records", EXACT), EXACT, model="llama-7b", hardware="tpu-like")
    of_table: list[str] = []
    shown = simulate(chosen, [], of_table.append)["results"]
    assert [result["pipeline"] for result in shown] == ["token"]
    said: list[str] = []
    assert len(write(tmp_path / "out", chosen, said.append)) == 1
    assert said == of_table
    assert f"leaving out {EXACT.title} with the pipeline deferred: arrays.rows 128" in said[0]


def test_a_requested_pipeline_is_not_left_out(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", EXACT)
    chosen = options(records, EXACT, pipelines=["deferred"], model="llama-7b", hardware="tpu-like")
    with pytest.raises(CannotBuild, match=r"arrays\.rows 128"):
        exported(chosen, pytest.fail, lambda unit: unit.name)


@pytest.mark.parametrize("write", WRITERS)
def test_a_pipeline_without_a_record_is_left_out(tmp_path: Path, write: Writer) -> None:
    records = without_deferred(write_records(tmp_path / "records", SOFTERMAX))
    said: list[str] = []
    assert len(write(tmp_path / "out", options(records, SOFTERMAX), said.append)) == 1
    assert len(said) == 1
    assert "deferred: no record in" in said[0]


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_is_written_if_a_later_method_has_no_record(tmp_path: Path, write: Writer) -> None:
    records = write_records(tmp_path / "records", CONSMAX)
    with pytest.raises(NoRecord, match="the cost of a unit of softermax"):
        write(tmp_path / "out", options(records, CONSMAX, SOFTERMAX), pytest.fail)
    assert not (tmp_path / "out").exists()


def test_variants_have_distinct_names(tmp_path: Path) -> None:
    chosen = options(write_records(tmp_path / "records", CONSMAX, CONSMAX_16), CONSMAX, CONSMAX_16)
    assert write_stream(tmp_path / "cores", chosen, pytest.fail) == ["consmax-element", "consmax-bits-16-element"]
    assert sorted(path.name for path in (tmp_path / "cores").iterdir()) == [
        "consmax-bits-16-element",
        "consmax-element",
    ]
    components = ["softmax_consmax_element", "softmax_consmax_bits_16_element"]
    assert write_package(tmp_path / "package", chosen, pytest.fail) == components


def test_the_name_is_that_of_the_built_spec(tmp_path: Path) -> None:
    # In the deferred pipeline, slices are as wide as a beat.
    records = write_records(tmp_path / "records", SOFTERMAX)
    chosen = options(records, SOFTERMAX, model="llama-7b", hardware="tpu-like")
    assert write_stream(tmp_path / "cores", chosen, pytest.fail) == [
        "softermax-token",
        "softermax-slice-width-128-deferred",
    ]


@pytest.mark.parametrize("write", WRITERS)
def test_units_of_one_name_are_refused(tmp_path: Path, write: Writer) -> None:
    above, below = (
        METHODS["consmax"].from_json({"schema": 1, "method": "consmax", "beta0": beta}) for beta in (2.5, -2.5)
    )
    chosen = options(write_records(tmp_path / "records", above, below), above, below)
    with pytest.raises(ValueError, match=r"beta0=2\.5 and consmax beta0=-2\.5 would both be written"):
        write(tmp_path / "out", chosen, pytest.fail)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_an_earlier_export_is_replaced(tmp_path: Path, write: Writer) -> None:
    chosen = options(write_records(tmp_path / "records", CONSMAX), CONSMAX)
    write(tmp_path / "out", chosen, pytest.fail)
    (tmp_path / "out" / "of_the_user").write_text("")
    written = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    folder = next(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    (folder / "stale").write_text("")
    write(tmp_path / "out", chosen, pytest.fail)
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == written
