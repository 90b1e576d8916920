"""Where these tests run: on a card, or in Triton's interpreter, in a process that TRITON_INTERPRET=1 starts so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from softmaxkit.kernels import backends

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_CARD = torch.cuda.is_available() and not INTERPRETED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Return the device on which kernels of GPUs run here."""
    pytest.importorskip("triton")
    if not (INTERPRETED or ON_CARD):
        pytest.skip("there is no CUDA device, and TRITON_INTERPRET is not 1")
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    backends.reset()
    yield torch.device("cuda" if ON_CARD else "cpu")
    monkeypatch.undo()
    backends.reset()
