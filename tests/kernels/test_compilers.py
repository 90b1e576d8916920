"""Kernels built by another compiler than GCC pass the tests of kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import sys
from importlib.machinery import PathFinder
import pytest

class Built:
    @staticmethod
    def find_spec(name, path, target=None):
        package, _, module = name.rpartition(".")
        built = package == "softmaxkit.kernels" and module.startswith("_")
        return PathFinder.find_spec(name, [sys.argv[1]]) if built else None

sys.meta_path.insert(0, Built)
from softmaxkit.kernels.backends import native
assert str(native().__file__).startswith(sys.argv[1])
# GCC and clang may contract products and sums in one template to fused operations where another one has none.
sys.exit(pytest.main(["-m", "not slow", "tests/kernels", "--deselect",
                      "tests/kernels/test_rows.py::test_large_results_are_those_of_small_ones"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang++"), reason="clang is not installed")
def test_kernels_built_by_clang(tmp_path: Path) -> None:
    """Clang compiles libstdc++'s stdx::where for AVX-512 to a choice between whole vectors; see native/vector.hpp."""
    options = ["cmake.define.CMAKE_CXX_COMPILER=clang++", "cmake.define.PORTABLE_TILES=ON"]
    settings = [argument for option in options for argument in ("--config-settings", option)]
    wheel_of = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *settings, "--wheel-dir", tmp_path, ROOT]
    subprocess.run(wheel_of, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    kernels = tmp_path / "softmaxkit" / "kernels"
    assert list(kernels.glob("_plain.*")), "the kernels did not compile"
    subprocess.run([sys.executable, "-c", TESTS, kernels], cwd=ROOT, check=True)
