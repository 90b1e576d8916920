"""Registration of kernels as PyTorch operators, which trace, compile, export and differentiate like torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Function = Callable[..., Any]


class Operator:
    """A function registered as an operator of `torch.ops.softmaxkit`.

    Like `torch.library.custom_op`, but without its check on every call that no result shares memory with an argument:
    the check takes a quarter of a millisecond on a GPU, longer than most kernels. Results here are always new tensors.

    Args:
        function: the implementation, named as the operator; its annotations define the operator's schema.
        devices: device types for which it is registered, such as "cpu" and "cuda".
    """

    def __init__(self, function: Function, devices: Sequence[str]) -> None:
        name = f"softmaxkit::{function.__name__}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, tuple(devices), function)
        self.overload: Any = getattr(torch.ops.softmaxkit, function.__name__).default

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the operator, or record the call while tracing."""
        return self.overload(*arguments, **named)

    def register_fake(self, function: Function) -> Function:
        """Register a function that returns empty tensors like the operator's results, for tracing."""
        torch.library.register_fake(self.overload, function)
        return function

    def register_autograd(self, backward: Function, setup_context: Function) -> None:
        """Register the gradient, as `torch.library.register_autograd`."""
        torch.library.register_autograd(self.overload, backward, setup_context=setup_context)


def operator(*devices: str) -> Callable[[Function], Operator]:
    """Return a decorator that registers a function as an operator of the same name, for some device types."""
    return lambda function: Operator(function, devices)
