"""Kernels built by another compiler than GCC pass the tests of kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = '''
import sys
from importlib.machinery import PathFinder
import pytest

def is_kernels(name):
    return name.startswith("softmaxkit.kernels._")

class Built:
    @staticmethod
    def find_spec(name, path, target=None):
        return PathFinder.find_spec(name, [sys.argv[1]]) if is_kernels(name) else None

class Others:
    """Finds everything but the kernels of the installation, which may have more builds."""
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path, target=None):
        return None if is_kernels(name) else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Built, *map(Others, sys.meta_path)]
from softmaxkit.kernels.backends import native
assert str(native().__file__).startswith(sys.argv[1])
# GCC and clang may contract products and sums in one template to fused operations where another one has none.
sys.exit(pytest.main(["-m", "not slow", "tests/kernels", "--deselect",
                      "tests/kernels/test_rows.py::test_large_results_are_those_of_small_ones"]))
'''


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang++"), reason="clang is not installed")
@pytest.mark.parametrize("library", ["libstdc++", "libc++"])
def test_kernels_built_by_clang(library: str, tmp_path: Path) -> None:
    """Clang compiles libstdc++'s stdx::where for AVX-512 to a choice between whole vectors; see native/vector.hpp."""
    flag = f"-stdlib={library}"
    probe = ["clang++", "-std=c++20", flag, "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(probe, input="#include <algorithm>", text=True, capture_output=True).returncode:
        pytest.skip(f"no {library} that this clang compiles is installed")
    defined = {"CMAKE_CXX_COMPILER": "clang++", "CMAKE_CXX_FLAGS": flag, "PORTABLE_TILES": "ON"}
    settings = [part for item in defined.items() for part in ("--config-settings", f"cmake.define.{'='.join(item)}")]
    wheel_of = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *settings, "--wheel-dir", tmp_path, ROOT]
    subprocess.run(wheel_of, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    kernels = tmp_path / "softmaxkit" / "kernels"
    assert list(kernels.glob("_plain.*")), "the kernels did not compile"
    subprocess.run([sys.executable, "-c", TESTS, kernels], cwd=ROOT, check=True)
