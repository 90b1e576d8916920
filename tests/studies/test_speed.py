"""The benchmark: its record and its measured errors; no times are asserted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.cli import main
from softmaxkit.kernels import operators, rows
from softmaxkit.kernels.backends import backend_name
from softmaxkit.kernels.row_call import NATIVE_OPERATORS, TRITON_OPERATORS
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.softermax.module import SoftermaxModule
from softmaxkit.studies import speed
from softmaxkit.studies.contenders import kernel_mode
from softmaxkit.studies.machine import processor


def test_the_record_has_ratios_and_errors_for_every_shape_and_thread(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    shapes = [x for shape in ("32x100", "2x9x33x16", "2x1x50x16", "4/2x1x50x16") for x in ("--shape", shape)]
    assert main(["bench", *shapes, "--threads", "1", "--threads", "2", "--rounds", "2", "--json", str(path)]) == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["inputs"]["kernels"] == backend_name()
    assert {(tuple(result["shape"]), result["threads"], result["dtype"]) for result in record["results"]} == {
        (shape, threads, dtype)
        for shape in ((32, 100), (2, 9, 33, 16), (2, 1, 50, 16), (4, 1, 50, 16, 2))
        for threads in (1, 2)
        for dtype in ("float32", "bfloat16")
    }
    for result in record["results"]:
        assert result["seconds"] > 0
        assert result["time_over_copy"] > 0
        half = result.get("variant") == "bfloat16"
        assert ("speedup_over_torch_bfloat16" in result) == (len(result["shape"]) > 2)
        if result["method"] == "torch":
            assert result["speedup_over_torch_bfloat16" if half else "speedup_over_torch"] == 1
        in_bfloat16 = half or (result["dtype"] == "bfloat16" and (len(result["shape"]) == 2 or result.get("spec")))
        is_float = result.get("mode", "float") == "float" and "storage" not in result
        if result["method"] in ("torch", "exact") and is_float:
            # A result near 1 is rounded by up to 2^-9; torch's attention also rounds scores, of up to 8, by 2^-7.
            assert result.get("error_max", 0) < (2**-8 if in_bfloat16 else 1e-6)
            assert result.get("error_rms", 0) < (2**-6 if in_bfloat16 else 1e-5)
            assert max(result.get("error_max", 0), result.get("error_rms", 0)) > (1e-5 if in_bfloat16 else 0)
        assert result["dtype"] == "float32" or result.get("mode") != "integer"
    forms = {(result["method"], result["spec"]["bits"]) for result in record["results"] if result["method"] == "exaq"}
    assert forms == {("exaq", 2), ("exaq", 3), ("exaq", 4)}
    storages = {result.get("storage") for result in record["results"] if result["shape"] == [4, 1, 50, 16, 2]}
    assert storages == ({None, "8-bit cache", "4-bit cache"} if backend_name() != "torch" else {None})
    assert record["inputs"]["processor"] == processor()


def test_float16_is_compared_with_torch_in_every_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, shapes = tmp_path / "speed.json", ["--shape", "2x9x33x16", "--shape", "32x100"]
    arguments = ["--dtype", "float16", *shapes, "--threads", "1", "--rounds", "2", "--method", "consmax"]
    assert main(["bench", *arguments, "--json", str(path)]) == 0
    assert "over float16" in capsys.readouterr().out
    of_attention, of_rows = [], []
    for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
        assert result["dtype"] == "float16"
        (of_rows if len(result["shape"]) == 2 else of_attention).append(result)
    variants = [result.get("variant") for result in of_attention if result["method"] == "torch"]
    assert variants == [None, "bfloat16", "float16"]
    for result in of_attention:
        assert {"speedup_over_torch", "speedup_over_torch_bfloat16", "speedup_over_torch_float16"} <= result.keys()
        if result.get("variant") == "float16":
            assert result["speedup_over_torch_float16"] == 1
            assert 1e-5 < result["error_rms"] < 2**-10
    assert all(result["error_max"] < 2**-11 for result in of_rows if result["method"] == "torch")


def test_the_processor_has_a_name_and_its_instructions(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512vbmi amx_int8\n\n")
    description = processor(file)
    assert (description["name"], description["instructions"]) == (
        "Some CPU",
        ["avx2", "avx512f", "avx512_vbmi", "amx_int8"],
    )
    assert processor(tmp_path / "none")["instructions"] == []


def test_an_arm_processor_is_named_by_lscpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, lscpu = tmp_path / "cpuinfo", tmp_path / "lscpu"
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    lscpu.write_text('#!/bin/sh\necho "Architecture:   aarch64"\necho "Model name:     Neoverse-V1"\n')
    lscpu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    named = processor(file)
    assert (named["name"], named["instructions"]) == ("Neoverse-V1", ["asimd", "asimddp", "i8mm"])
    lscpu.write_text('#!/bin/sh\necho "Vendor ID:   Apple"\necho "Model name:  -"\n')  # in a virtual machine
    assert processor(file)["name"] == "Apple"
    lscpu.unlink()
    assert processor(file)["name"]


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    options = speed.SpeedOptions((Exact(),), ((4, 8),), (before + 1,), 1, False, 0)
    speed.measure_speed(options, [], lambda title: lambda done, total: None)
    assert torch.get_num_threads() == before


def test_specs_that_differ_in_their_clip_alone_are_measured_once() -> None:
    assert speed.distinct([Exaq(bits=2), Exaq(bits=2, clip="searched"), Exaq(bits=3), Exact()]) == (
        Exaq(bits=2),
        Exaq(bits=3),
        Exact(),
    )


def test_compare_shows_the_mode_that_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {kernel_mode(method_class(name)()) for name in METHODS} == {"float"}
    monkeypatch.setattr(SoftermaxModule, "row_call", lambda module, device: None)
    assert kernel_mode(Softermax()) == "integer"


def test_every_row_kernel_can_be_called_by_the_name_of_its_operator() -> None:
    for name in {*NATIVE_OPERATORS, *TRITON_OPERATORS}:
        assert getattr(operators, name).overload.name() == f"softmaxkit::{name}"
        assert callable(getattr(rows, name))


def test_specs_that_compute_the_same_have_one_speed() -> None:
    specs = [ConSmax(), Exaq(bits=3), Exaq(bits=3, clip="naive"), Softermax()]
    speedups = speed.speedups_over_torch(specs, (8, 16), 3)
    assert set(speedups) == (set() if backend_name() == "torch" else set(specs))
    for figures in speedups.values():
        low, high = figures["speedup_over_torch_low"], figures["speedup_over_torch_high"]
        assert 0 < low <= figures["speedup_over_torch"] <= high
    if speedups:
        assert speedups[specs[1]] == speedups[specs[2]]


@pytest.mark.parametrize("shape", ["12", "4x", "0x4", "4x5x6", "axb", "4/2x6", "4/x1x2x3", "4x1/2x3x4"])
def test_a_wrong_shape_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape", shape]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a shape is ROWSxKEYS or HEADSxQUERIESxKEYSxCHANNELS, e.g. 1024x4096, not ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_contender_is_compiled_for_every_shape() -> None:
    """With as many compilations as there are numbers of threads, which torch compiles for separately."""
    shapes, threads = ((4, 8), (5, 9)), (1, 2)
    options = speed.SpeedOptions((), shapes, threads, 1, True, 0)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=len(threads)):
        record = speed.measure_speed(options, [], lambda title: lambda done, total: None)
    assert sum(result["method"] == "torch, compiled" for result in record["results"]) == len(shapes) * 2 * len(threads)
