"""Run a model for inspection, without side effects on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from softmaxkit.formats import Array
from softmaxkit.warning import warn

T = TypeVar("T")

_warned: set[str] = set()


class OfThread(Generic[T]):
    """A value that only the thread that set it sees, because other models may be running in other threads."""

    def __init__(self) -> None:
        self._values: dict[int, T] = {}

    def get(self) -> T | None:
        """Return the value of this thread; None if it has none."""
        return self._values.get(get_ident()) if self._values else None  # compiled models need not know their thread

    @contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Set the value of this thread; at the end it has its previous value, or none, again."""
        thread = get_ident()
        previous = {thread: self._values[thread]} if thread in self._values else {}
        self._values[thread] = value
        try:
            yield
        finally:
            del self._values[thread]
            self._values.update(previous)


def warn_once(message: str) -> None:
    """Warn, unless the same message was issued since the last call of `warn_again`."""
    if message not in _warned:
        _warned.add(message)
        warn(message)


def warn_again() -> None:
    """Forget all messages, so that each can be issued once more."""
    _warned.clear()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode, without gradients; restore every module's training flag at the end."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, state in training.items():
            module.training = state


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end, also after an error."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_default_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the device that the Trainer would use: a GPU if there is one."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type, unused-ignore]
    return model


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's inputs, also for a model whose weights are offloaded."""
    hook = getattr(model, "_hf_hook", None)
    device = getattr(hook, "execution_device", None) or next(model.parameters()).device
    return torch.device("cpu") if torch.device(device).type == "meta" else torch.device(device)


def check_finite(values: Array) -> None:
    """Check that an encoder's outputs on a task are finite.

    Raises:
        FloatingPointError: one is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the encoder returns NaN or infinity on the task; either its weights or a method in it is the cause"
        )


def run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    """Call a model with inputs moved to its device."""
    device = device_of(model)
    return model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()})
