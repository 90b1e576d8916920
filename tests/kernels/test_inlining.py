"""Small functions on vectors are inlined in every build: a call passes vectors through memory, in the hottest loops."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import pytest

from softmaxkit.kernels.builds import NATIVE

VECTOR = re.compile(r"__vector|\bsimd\b|__m(256|512)")


def called_with_vectors(symbols: str) -> set[str]:
    """Return the functions in nm's output, without template arguments, that take or return a vector."""
    names = set()
    for symbol in re.findall(r"^[0-9a-f]+ [tTwW] (.*)$", symbols, re.MULTILINE):
        if "softmaxkit::" not in symbol or "nanobind::" in symbol:
            continue
        # A lambda's name has its parameters, also where a lambda is passed to a function; calls are of its operator().
        name, shorter = "", symbol
        while shorter != name:
            name, shorter = shorter, re.sub(r"<[^<>]*>|\{lambda\([^{}]*\)#\d+\}", "", shorter)
        if VECTOR.search(name):
            names.add(name)
    return names


@pytest.mark.parametrize("name", [*NATIVE, "portable_tiles"])
def test_no_function_on_vectors_is_called(name: str) -> None:
    module = importlib.util.find_spec(f"softmaxkit.kernels._{name}")
    if module is None or module.origin is None:
        pytest.skip(f"no {name} kernels are installed")
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm, of the GNU binutils, is not installed")
    listed = subprocess.run([nm, "--demangle", module.origin], capture_output=True, text=True)
    if "softmaxkit::" not in listed.stdout:
        pytest.skip("the kernels have no symbols; an editable installation keeps them")
    if "__asan" in listed.stdout:
        pytest.skip("the kernels are built with sanitizers, which inline less")
    assert called_with_vectors(listed.stdout) == set()


def test_functions_on_vectors_are_recognised() -> None:
    vector = "std::experimental::parallelism_v2::simd<float, std::experimental::_VecBltnBtmsk<64> >"
    function = (
        "softmaxkit::places_of_64<8>(softmaxkit::Scores<float, false> const&, long, long long __vector(8) (&) [4])"
    )
    called = [
        f"softmaxkit::magnitude({vector} const&)",
        f"long long __vector(8) {function}",
        f"{vector} softmaxkit::load_upto<float>(float const*, long)",
        f"softmaxkit::row<4>(long)::{{lambda({vector} const&)#1}}::operator()({vector} const&) const",
    ]
    not_called = [
        "float softmaxkit::sum<4, softmaxkit::row<4>(long)::{lambda(long, long long __vector(8))#1}>(long)",
        "float softmaxkit::row_maximum<softmaxkit::Scores<float, true> >(softmaxkit::Scores<float, true> const&, long)",
    ]
    symbols = "\n".join(f"{index:016x} W {name}" for index, name in enumerate([*called, *not_called]))
    assert len(called_with_vectors(symbols)) == len(called)
