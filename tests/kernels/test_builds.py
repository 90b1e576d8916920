"""Which native builds there are, and the reason if there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tile_builds import inputs

from softmaxkit import Exact, explain
from softmaxkit.kernels import backends, builds


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Forget which back ends there are, before and after a test changes it."""
    monkeypatch.setenv("SOFTMAXKIT_KERNELS", "")
    backends.reset()
    yield monkeypatch
    monkeypatch.undo()
    backends.reset()


def test_kernels_that_cannot_be_loaded_are_not_kernels_that_no_compiler_built(
    without_kernels: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> None:
        raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.30' not found")

    without_kernels.setattr(builds, "import_module", refuse)
    assert builds.supported() == []
    reason = "the native kernels cannot be loaded (libstdc++.so.6: version `GLIBCXX_3.4.30' not found)"
    assert reason in str(explain(Exact(), *inputs(1, 20, 16, 16)))


def test_without_a_compiler_the_reason_says_so(without_kernels: pytest.MonkeyPatch) -> None:
    without_kernels.setattr(builds, "find_spec", lambda name: None)
    assert builds.supported() == []
    assert "no compiler that builds the native kernels" in str(explain(Exact(), *inputs(1, 20, 16, 16)))
