"""The operations that kernels have in NEON and AVX-VNNI compute what they do in AVX2, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from softmaxkit.kernels import builds
from softmaxkit.studies.machine import processor

PROGRAM = Path(__file__).with_name("instruction_set.cpp")
NATIVE = Path(__file__).parents[2] / "native"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
NEON_TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64")
INSTRUCTIONS = processor()["instructions"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("avx2" not in builds.supported(), reason="this processor has no AVX2 to compare with"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
]


def compile_program(compiler: str, *arguments: str | Path) -> None:
    subprocess.run([compiler, *FLAGS, "-I", NATIVE, *arguments], check=True)


def printed(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture(scope="module")
def by_avx2(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("avx2") / "program"
    compile_program("g++", *AVX2, PROGRAM, "-o", program)
    lines = printed(program)
    assert len(lines) > 300
    return lines


@pytest.mark.skipif(not all(map(shutil.which, NEON_TOOLS)), reason=f"{' and '.join(NEON_TOOLS)} are not both installed")
def test_neon_computes_what_avx2_does(tmp_path: Path, by_avx2: list[str]) -> None:
    program = tmp_path / "program"
    compile_program("aarch64-linux-gnu-g++", "-march=armv8.2-a+dotprod", "-static", PROGRAM, "-o", program)
    assert printed("qemu-aarch64", "-cpu", "max", program) == by_avx2


@pytest.mark.skipif(
    not {"avx_vnni", "avx512_vnni"} & set(INSTRUCTIONS), reason="this processor has neither AVX-VNNI nor AVX-512 VNNI"
)
def test_avx_vnni_computes_what_avx2_does(tmp_path: Path, by_avx2: list[str]) -> None:
    """AVX-512 VNNI has the same instructions in another encoding."""
    assembly, program = tmp_path / "program.s", tmp_path / "program"
    compile_program("g++", *AVX2, "-mavxvnni", "-S", PROGRAM, "-o", assembly)
    text = assembly.read_text()
    assert text.count("{vex} vpdpbusd") > 100
    if "avx_vnni" not in INSTRUCTIONS:
        assembly.write_text(text.replace("{vex} vpdpbusd", "{evex} vpdpbusd"))
    compile_program("g++", assembly, "-o", program)
    assert printed(program) == by_avx2
