"""Fixtures of the kernels' tests."""

from __future__ import annotations

from importlib import import_module

import pytest

from softmaxkit.kernels import backends, launch


@pytest.fixture(params=backends.NATIVE)
def row_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the row kernels of each instruction set that this processor has."""
    if request.param not in backends._supported():
        pytest.skip(f"this processor has no {request.param}")
    module = import_module(f"softmaxkit.kernels._{request.param}")
    monkeypatch.setattr(launch, "native", lambda: module)
    return str(request.param)
