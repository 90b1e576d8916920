"""The operations that kernels have in NEON compute what they do in AVX2, bit for bit, in an emulated Arm processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from softmaxkit.kernels import builds

PROGRAM = Path(__file__).with_name("instruction_set.cpp")
NATIVE = Path(__file__).parents[2] / "native"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
TOOLS = ("g++", "aarch64-linux-gnu-g++", "qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in builds.supported(), reason="this processor has no AVX2 to compare with")
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"{', '.join(TOOLS)} are not all installed")
def test_neon_computes_what_avx2_does(tmp_path: Path) -> None:
    def printed(compiler: str, *more: str, emulator: tuple[str, ...] = ()) -> list[str]:
        program = tmp_path / compiler
        subprocess.run([compiler, *FLAGS, *more, "-I", NATIVE, PROGRAM, "-o", program], check=True)
        return subprocess.run([*emulator, program], check=True, capture_output=True, text=True).stdout.splitlines()

    avx2 = printed("g++", "-mavx2", "-mfma")
    emulator = ("qemu-aarch64", "-cpu", "max")
    neon = printed("aarch64-linux-gnu-g++", "-march=armv8.2-a+dotprod", "-static", emulator=emulator)
    assert neon == avx2
    assert len(avx2) > 300
