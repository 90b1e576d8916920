"""Registration of kernels as PyTorch operators, which trace, compile, export and differentiate like torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softmaxkit.kernels.backends import transform_at_work

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
        self._function = function
        self._devices = frozenset(devices)

    def __call__(self, *arguments: Any) -> Any:
        """Call the operator, or record the call while tracing.

        PyTorch's dispatcher takes longer than the kernel of a generated token, so a call in which it has nothing to do
        but to find the function goes there directly.
        """
        return self._function(*arguments) if self._is_direct(arguments) else self.overload(*arguments)

    def _is_direct(self, arguments: Sequence[Any]) -> bool:
        """Return whether nothing traces, transforms, records or differentiates the call."""
        if torch.compiler.is_dynamo_compiling() or transform_at_work() or torch._C._autograd._profiler_enabled():
            return False
        if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack() or torch._C._is_tracing():
            return False
        is_recorded = torch.is_grad_enabled()
        for x in arguments:
            if isinstance(x, Tensor):
                if type(x) is not Tensor and type(x) is not nn.Parameter:
                    return False
                if (is_recorded and x.requires_grad) or x.device.type not in self._devices:
                    return False
        return True

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
