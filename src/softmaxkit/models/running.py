"""Running a model to look at it, without leaving a trace on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from softmaxkit.formats import Array

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warn, unless the same message was already given since `warn_again`."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=3)


def warn_again() -> None:
    """Let every message be given once more."""
    _warned.clear()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation, without gradients; every module's training flag comes back as it was."""
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
    """Remove hooks at the end, whatever happens."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_default_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to where the Trainer would: a GPU where there is one."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type, unused-ignore]
    return model


def device_of(model: nn.Module) -> torch.device:
    """Return the device that takes a model's inputs, also where its weights are offloaded."""
    hook = getattr(model, "_hf_hook", None)
    device = getattr(hook, "execution_device", None) or next(model.parameters()).device
    return torch.device("cpu") if torch.device(device).type == "meta" else torch.device(device)


def check_finite(values: Array) -> None:
    """Refuse NaN and infinity in what a model gives.

    Raises:
        FloatingPointError: there is one.
    """
    if not np.isfinite(values).all():
        raise FloatingPointError("the encoder gives NaN or infinity on the task: its weights, or a method in it, do")


def run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    """Call a model with inputs moved to its device."""
    device = device_of(model)
    return model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()})
