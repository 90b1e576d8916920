"""Detect NaN and infinity in a training, and find the parameter or layer in which they begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softmaxkit.models.running import hooked


class Divergence:
    """Records the first step at which a value is not finite, without synchronising with the device.

    Args:
        device: device of the values.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: dict[str, tuple[Tensor, Tensor]] = {}

    def see(self, what: str, step: int, values: Sequence[Tensor]) -> None:
        """Check the tensors of a step, which must come in the same order at every step."""
        norms = torch._foreach_norm(list(values), torch.inf)  # not finite if any element is not; few kernel launches
        wrong = ~torch.stack([norm.float() for norm in norms]).isfinite()
        step_now = torch.full((), step, device=self._device)
        none = torch.zeros((), dtype=torch.int64, device=self._device)
        first, places = self._first.get(what, (none, torch.zeros_like(wrong)))
        is_new = (first == 0) & wrong.any()
        self._first[what] = torch.where(is_new, step_now, first), torch.where(is_new, wrong, places)

    def first_steps(self) -> dict[str, tuple[int, list[int]]]:
        """Return for each kind of value the first step at which one was not finite, and the indices of those tensors.

        This waits for the device.
        """
        first = {what: (int(step), places) for what, (step, places) in self._first.items()}
        return {what: (step, places.nonzero().flatten().tolist()) for what, (step, places) in first.items() if step}


def first_not_finite(model: nn.Module, inputs: Any) -> str:
    """Return the first parameter of a model that is not finite, or else the first submodule with such an output."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"{name}, which is not finite itself"
    names: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.is_floating_point() and not torch.isfinite(first).all():
                names.append(name)

        return see

    hooks = (module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name)
    with hooked(hooks), torch.no_grad():
        model(**inputs)
    return names[0] if names else "the loss itself"
