"""How kernels become PyTorch operators: traced, compiled, exported and differentiated as torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Function = Callable[..., Any]


class Operator:
    """A function as an operator of `torch.ops.softmaxkit`.

    As `torch.library.custom_op` makes, but for its look, at every call, for results that share memory with arguments:
    that takes a quarter of a millisecond on a card, longer than most kernels. Results here are always new.

    Args:
        function: computes it; its annotations are the operator's schema.
        devices: types of devices on which it does.
    """

    def __init__(self, function: Function, devices: Sequence[str]) -> None:
        name = f"softmaxkit::{function.__name__}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, tuple(devices), function)
        self.overload: Any = getattr(torch.ops.softmaxkit, function.__name__).default

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run it, or trace it."""
        return self.overload(*arguments, **named)

    def register_fake(self, function: Function) -> Function:
        """Say what its results are like, for tracing."""
        torch.library.register_fake(self.overload, function)
        return function

    def register_autograd(self, backward: Function, setup_context: Function) -> None:
        """Give it a gradient."""
        torch.library.register_autograd(self.overload, backward, setup_context=setup_context)


def operator(*devices: str) -> Callable[[Function], Operator]:
    """Make a function an operator on some types of devices, named as it is."""
    return lambda function: Operator(function, devices)
