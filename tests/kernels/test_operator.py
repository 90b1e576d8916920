"""Calls of operators: directly where PyTorch's dispatcher has nothing to do, else through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from softmaxkit.kernels.operator import Operator


def operator_for_test(x: Tensor, scale: float) -> Tensor:
    """Multiply."""
    return x * scale


MULTIPLY = Operator(operator_for_test, ("cpu",))
MULTIPLY.register_fake(lambda x, scale: torch.empty_like(x))
MULTIPLY.register_autograd(lambda ctx, gradient: (gradient * 3.0, None), lambda ctx, inputs, output: None)


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets the arguments of every call through the dispatcher."""
    calls: list[Any] = []
    overload = MULTIPLY.overload

    def through(*arguments: Any) -> Any:
        calls.append(arguments)
        return overload(*arguments)

    monkeypatch.setattr(MULTIPLY, "overload", through)
    return calls


@pytest.mark.parametrize("make", [torch.ones, lambda n: nn.Parameter(torch.ones(n))], ids=["tensor", "parameter"])
def test_a_plain_call_is_direct(make: Callable[[int], Tensor], dispatched: list[Any]) -> None:
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(MULTIPLY(make(4), 3.0), torch.full((4,), 3.0))
    with torch.enable_grad():
        assert torch.equal(MULTIPLY(torch.ones(4), 3.0), torch.full((4,), 3.0))
    assert not dispatched


def by_profiler() -> Any:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        MULTIPLY(torch.ones(4), 3.0)
    assert any("operator_for_test" in event.key for event in profile.key_averages())


def by_dispatch_mode() -> Any:
    with FlopCounterMode(display=False):
        MULTIPLY(torch.ones(4), 3.0)


def by_fake_mode() -> Any:
    with FakeTensorMode() as mode:
        MULTIPLY(mode.from_tensor(torch.ones(4)), 3.0)


def by_gradient() -> Any:
    x = torch.ones(4, requires_grad=True)
    MULTIPLY(x, 3.0).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((4,), 3.0))


def by_transform() -> Any:
    with pytest.raises(RuntimeError, match="functorch"):  # torch has no such transform of operators
        torch.func.grad(lambda x: MULTIPLY(x, 3.0).sum())(torch.ones(4))


def by_forward_mode() -> Any:
    with torch.autograd.forward_ad.dual_level():
        MULTIPLY(torch.ones(4), 3.0)


def by_trace() -> Any:
    graph = make_fx(lambda x: MULTIPLY(x, 3.0))(torch.ones(4))
    assert "operator_for_test" in graph.code


def by_jit_trace() -> Any:
    traced = torch.jit.trace(lambda x: MULTIPLY(x, 3.0), torch.ones(4))
    assert "operator_for_test" in str(traced.graph)


def by_function_mode() -> Any:
    with torch.device("cpu"):
        MULTIPLY(torch.ones(4), 3.0)


def by_subclass() -> Any:
    result = MULTIPLY(TwoTensor(torch.ones(4), torch.ones(4)), 3.0)
    assert type(result) is TwoTensor


def by_device() -> Any:
    assert MULTIPLY(torch.ones(4, device="meta"), 3.0).is_meta


CALLS = [
    by_profiler,
    by_dispatch_mode,
    by_fake_mode,
    by_gradient,
    by_transform,
    by_forward_mode,
    by_trace,
    by_jit_trace,
    by_function_mode,
    by_subclass,
    by_device,
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_records_or_changes_calls_gets_them(call: Callable[[], Any], dispatched: list[Any]) -> None:
    call()
    assert dispatched
