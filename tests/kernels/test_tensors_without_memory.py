"""Fake tensors and subclasses that wrap others: torch runs them, and no kernel reads an address that they do not have.

Nor does anything stay behind of the context in which a function is called first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.fused_attention.choice import choose
from softmaxkit.kernels import encode as encoding
from softmaxkit.kernels import native_attention, packed, rows
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import native
from softmaxkit.kernels.codes import Cached
from softmaxkit.methods.base import numbers

SCORES = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
PARAMETERS: dict[Any, dict[str, float]] = {
    Exact(): {},
    ConSmax(): {"beta": 2.0, "gamma": 50.0},
    Softermax(): {},
    Exaq(): {"clip": -3.5},
}
METHODS = [pytest.param(spec, id=spec.method) for spec in PARAMETERS]
LEVELS = [0.1, 0.2, 0.5, 1.0]


def encode(x: Tensor) -> Cached:
    return encoding.encode(x, 8)


KERNELS: list[Callable[[Tensor], Any]] = [
    rows.softmax,
    lambda x: rows.exponential(x, torch.zeros(())),
    lambda x: rows.levels(x, -5.0, LEVELS),
    lambda x: rows.topk(x, 2),
    lambda x: packed.levels(x, -5.0, LEVELS),
    encode,
    lambda x: native_attention.attend(x, x, x, AttentionCall.by_levels(-5.0, LEVELS)),
]

TRACES = [lambda run: torch.jit.trace(run, (SCORES,)), lambda run: make_fx(lambda x: run(x))(SCORES)]

CONTEXTS = [
    lambda: FakeTensorMode(allow_non_fake_inputs=True),
    lambda: torch.device("meta"),
    torch.inference_mode,
    nullcontext,
]


def softmax(spec: Any, x: Tensor) -> Tensor:
    result: Tensor = softmaxkit.softmax(x, spec, **PARAMETERS[spec])
    return result


def attention(spec: Any, x: Tensor) -> Tensor:
    result: Tensor = softmaxkit.attention(x, x, x, spec, **PARAMETERS[spec])
    return result


def fake() -> FakeTensor:
    with FakeTensorMode() as mode:
        tensor: FakeTensor = mode.from_tensor(SCORES)
    return tensor


@pytest.mark.parametrize("run", KERNELS)
@pytest.mark.parametrize("tensor", [fake(), TwoTensor(SCORES, SCORES.clone())], ids=["fake", "wrapper"])
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_kernels_refuse(run: Callable[[Tensor], Any], tensor: Tensor) -> None:
    if native() is None:
        pytest.skip("no native kernels run here")
    with pytest.raises(TypeError, match=f"memory, of which a {type(tensor).__name__} has none"):
        run(tensor)


@pytest.mark.parametrize("run", [run for run in KERNELS if run is not encode])
@pytest.mark.parametrize("trace", TRACES)
def test_kernels_refuse_a_trace_which_would_not_record_what_they_write(trace: Any, run: Any) -> None:
    if native() is None:
        pytest.skip("no native kernels run here")
    with pytest.raises(RuntimeError, match="does not record what native kernels write"):
        trace(run)


def test_codes_are_traced_through_torch() -> None:
    traced = torch.jit.trace(lambda x: encode(x).decoded(x.dtype), (SCORES,))
    assert torch.equal(traced(-SCORES), encode(-SCORES).decoded(SCORES.dtype))


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("run", [softmax, attention])
def test_a_wrapper_gives_the_same(run: Callable[[Any, Tensor], Tensor], spec: Any) -> None:
    result = run(spec, TwoTensor(SCORES, SCORES.clone()))
    assert isinstance(result, TwoTensor)
    assert torch.allclose(result.a, run(spec, SCORES), atol=1e-6)


def test_attention_of_wrappers_and_fake_tensors_runs_natively_and_is_explained() -> None:
    for x in (fake(), TwoTensor(SCORES, SCORES.clone())):
        assert softmaxkit.explain(Exaq(), x, x, x, clip=-3.5).native == (native() is not None)
    query = SCORES[:, :, :1]
    cache = softmaxkit.KeyValueCache(SCORES, SCORES)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        choice = choose(Exaq().module(clip=-3.5), mode.from_tensor(query), *cache.codes)[1]
    assert not choice.native


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq()])  # building ConSmax's module reads its numbers
def test_fake_attention_has_the_shape(spec: Any) -> None:
    attention(spec, SCORES)
    with FakeTensorMode() as mode:
        result = attention(spec, mode.from_tensor(SCORES))
    assert isinstance(result, FakeTensor)
    assert (result.shape, result.dtype) == (SCORES.shape, SCORES.dtype)


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("run", [softmax, attention])
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_first_call_decides_nothing(context: Any, run: Callable[[Any, Tensor], Tensor], spec: Any) -> None:
    numbers._kept_module.cache_clear()
    expected = run(spec, SCORES)
    numbers._kept_module.cache_clear()
    with context(), suppress(RuntimeError, NotImplementedError, TypeError):  # it cannot run in all of them
        run(spec, SCORES)
    scores = SCORES.clone().requires_grad_()
    assert torch.equal(run(spec, SCORES), expected)
    run(spec, scores).sum().backward()
    assert scores.grad is not None


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("run", [softmax, attention])
def test_compiled_functions_do_not_warn(run: Callable[[Any, Tensor], Tensor], spec: Any) -> None:
    numbers._kept_module.cache_clear()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = torch.compile(lambda x: run(spec, x), backend="eager")(SCORES)
    assert torch.allclose(result, run(spec, SCORES), atol=1e-6)
    torch._dynamo.reset()
