"""The bench: what its record says, and its errors; no times are asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from softmaxkit import ConSmax, Exact, Exaq, Softermax, kernels
from softmaxkit.cli import main
from softmaxkit.studies import speed


def test_the_record_has_ratios_and_errors_for_every_shape_and_thread(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    shapes = [x for shape in ("32x100", "2x9x33x16", "2x1x50x16") for x in ("--shape", shape)]
    assert main(["bench", *shapes, "--threads", "1", "--threads", "2", "--rounds", "2", "--json", str(path)]) == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    built = kernels.native()
    assert record["inputs"]["kernels"] == (built.__name__.rsplit("_")[-1] if built else None)
    assert {(tuple(each["shape"]), each["threads"]) for each in record["results"]} == {
        (shape, threads) for shape in ((32, 100), (2, 9, 33, 16), (2, 1, 50, 16)) for threads in (1, 2)
    }
    for each in record["results"]:
        assert each["seconds"] > 0
        assert each["time_over_copy"] > 0
        if each["method"] == "torch":
            assert each["speedup_over_torch"] == 1
        if each["method"] in ("torch", "exact") and each.get("mode", "float") == "float":
            assert each.get("error_max", 0) < 1e-6
            assert each.get("error_rms", 0) < 1e-5
    forms = {(each["method"], each["spec"]["bits"]) for each in record["results"] if each["method"] == "exaq"}
    assert forms == {("exaq", 2), ("exaq", 3), ("exaq", 4)}
    assert any("storage" in each for each in record["results"]) == (built is not None)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    options = speed.SpeedOptions((Exact(),), ((4, 8),), (before + 1,), 1, False, 0)
    speed.measure_speed(options, [], lambda title: lambda done, total: None)
    assert torch.get_num_threads() == before


def test_one_of_forms_that_differ_in_their_clip_alone() -> None:
    assert speed.unlike([Exaq(bits=2), Exaq(bits=2, clip="searched"), Exaq(bits=3), Exact()]) == (
        Exaq(bits=2),
        Exaq(bits=3),
        Exact(),
    )


def test_what_compare_shows_is_the_mode_that_has_a_kernel() -> None:
    assert [speed.kernel_mode(spec) for spec in (ConSmax(), Exaq(), Softermax())] == ["float", "float", "integer"]
    found = speed.speedup_over_torch(ConSmax(), (8, 16), 1)
    assert (found is None) == (kernels.native() is None)


@pytest.mark.parametrize("shape", ["12", "4x", "0x4", "4x5x6", "axb"])
def test_a_shape_that_is_none(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape", shape]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a shape is ROWSxKEYS or HEADSxQUERIESxKEYSxCHANNELS, as 1024x4096, not ")
    assert error.count("\n") == 1
