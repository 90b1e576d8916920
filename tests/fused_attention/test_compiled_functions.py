"""`softmax` and `attention` in graphs: torch.compile in one graph, export and traces, with numbers and with tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from cases import DEFAULTS
from method_cases import Case
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Index, KeyValueCache, Spec
from softmaxkit.kernels.backends import native
from softmaxkit.methods.base.numbers import MISSES_FLOATS

HEADS = 4
X = torch.randn(2, HEADS, 16, 16, generator=torch.Generator().manual_seed(0))
Function = Callable[..., Tensor]


def softmax(spec: Spec, **numbers: Any) -> Function:
    return lambda x: softmaxkit.softmax(x, spec, **numbers)


def attention(spec: Spec, **numbers: Any) -> Function:
    return lambda x: softmaxkit.attention(x, x, x, spec, is_causal=True, **numbers)


both = pytest.mark.parametrize("function", [softmax, attention])


def in_one_graph(function: Function, **options: Any) -> Any:
    torch.compiler.reset()  # otherwise each case counts towards the limit on recompilations
    return torch.compile(function, backend="eager", fullgraph=not MISSES_FLOATS, **options)


def exported(function: Function, *given: Tensor, strict: bool = False) -> Function:
    class Program(torch.nn.Module):
        def forward(self, *given: Tensor) -> Tensor:
            return function(*given)

    program: Function = torch.export.export(Program(), given, strict=strict).module()
    return program


TRACES: dict[str, Callable[..., Any]] = {
    "compile": lambda function, *given: in_one_graph(function),
    "export": exported,
    **({} if MISSES_FLOATS else {"strict export": partial(exported, strict=True)}),
    "jit": lambda function, *given: torch.jit.trace(function, given),
    "make_fx": lambda function, *given: make_fx(lambda *inputs: function(*inputs))(*given),
}


def learned_tensors(case: Case, requires_grad: bool = False) -> dict[str, Tensor]:
    """Return the learned parameters, one per head, none of which is an initial value."""
    return {
        name: (torch.arange(1.0, HEADS + 1) * number).requires_grad_(requires_grad)
        for name, number in case.spec.start(X.shape[-1]).items()
    }


LEARNED = [case for case in DEFAULTS if learned_tensors(case)]
every_learned_method = pytest.mark.parametrize("case", LEARNED, ids=str)


def every_trace(cases: list[Case]) -> Iterator[Any]:
    """Yield them with methods; the fast tests have strict export, by Dynamo as torch.compile is, of one method."""
    for (name, trace), case in product(TRACES.items(), cases):
        marks = pytest.mark.slow if name == "strict export" and case != LEARNED[0] else []
        yield pytest.param(trace, case, id=f"{name}-{case}", marks=marks)


@pytest.mark.parametrize(("trace", "case"), every_trace(DEFAULTS))
@both
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@torch.no_grad()
def test_numbers(case: Case, function: Any, trace: Any) -> None:
    run = function(case.spec, **case.parameters)
    assert torch.allclose(trace(run, X)(X), run(X), rtol=1e-6)


def per_head(case: Case) -> dict[str, list[float]]:
    """Return the learned parameters as numbers, one per head."""
    return {name: values.tolist() for name, values in learned_tensors(case).items()}


@pytest.mark.parametrize(("trace", "case"), every_trace(LEARNED))
@both
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@torch.no_grad()
def test_numbers_per_head(case: Case, function: Any, trace: Any) -> None:
    """They are checked, which a graph cannot do with the tensors that are made of them."""
    run = function(case.spec, **per_head(case))
    assert torch.allclose(trace(run, X)(X), run(X), rtol=1e-6)
    wrong = function(case.spec, **{name: [*values[:-1], math.nan] for name, values in per_head(case).items()})
    with pytest.raises((ValueError, RuntimeError), match="requires a finite"):
        trace(wrong, X)(X)


@every_learned_method
@both
@pytest.mark.parametrize("trace", ["compile", "export", "make_fx"])  # torch.jit knows no functional_call
@torch.no_grad()
def test_tensors(case: Case, function: Any, trace: str) -> None:
    """A graph knows no numbers of them; the initial values, which it does know, would give other results."""
    run = function(case.spec, **learned_tensors(case))
    assert not torch.allclose(run(X), function(case.spec, **case.spec.start(X.shape[-1]))(X), rtol=0.1)
    assert torch.allclose(TRACES[trace](run, X)(X), run(X), rtol=1e-6)


MASKS = {
    "masked": torch.zeros(16, 16).masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf),
    "biased": torch.linspace(-2.0, 2.0, 256).view(16, 16),
}


@pytest.mark.parametrize(("trace", "case"), every_trace(DEFAULTS))
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@torch.no_grad()
def test_additive_masks(case: Case, trace: Any) -> None:
    """Whether one adds anything but -inf is known when the graph runs, and that of one mask says nothing of others."""
    spec, parameters = case.spec, case.parameters  # Dynamo of torch 2.10 does not unpack what a named tuple has

    def run(x: Tensor, mask: Tensor) -> Tensor:
        return softmaxkit.attention(x, x, x, spec, mask, **parameters)

    graph = trace(run, X, MASKS["masked"])
    for mask in MASKS.values():
        assert torch.allclose(graph(X, mask), run(X, mask), rtol=1e-6, atol=1e-6)


def test_gradients_of_an_additive_mask() -> None:
    spec = ConSmax()

    def run(mask: Tensor) -> Tensor:
        return softmaxkit.attention(X, X, X, spec, mask, beta=0.5, gamma=400.0)

    mask = MASKS["biased"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(run(mask).square().sum(), mask)
    (actual,) = torch.autograd.grad(in_one_graph(run)(mask).square().sum(), mask)
    assert expected.any()
    assert torch.allclose(actual, expected, rtol=1e-5)


@every_learned_method
@both
def test_gradients(case: Case, function: Any) -> None:
    learned, x = learned_tensors(case, requires_grad=True), X.clone().requires_grad_()
    run, inputs = function(case.spec, **learned), [x, *learned.values()]
    expected = torch.autograd.grad(run(x).square().sum(), inputs)
    actual = torch.autograd.grad(in_one_graph(run)(x).square().sum(), inputs)
    assert all(gradient.any() for gradient in expected)
    for one, other in zip(actual, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


@both
def test_changing_numbers_and_sizes(function: Any) -> None:
    """Dynamo takes a number that changed for a symbol, and every size."""
    spec = Exaq(bits=3)
    compiled = in_one_graph(lambda x, clip: function(spec, clip=clip)(x), dynamic=True)
    for clip, keys in ((-5.0, 16), (-4.0, 16), (-3.0, 9)):
        x = X[:, : keys // 4, :keys, :keys].contiguous()
        assert torch.equal(compiled(x, clip), function(spec, clip=clip)(x))


@pytest.mark.parametrize("name", ["scale", "dropout_p"])
def test_changing_arguments_of_attention(name: str) -> None:
    spec = Exaq(bits=3)
    compiled = in_one_graph(lambda x, number: attention(spec, clip=-5.0, **{name: number})(x), dynamic=True)
    for number in (0.5, 0.25, 0.125):
        torch.manual_seed(0)
        result = compiled(X, number)
        torch.manual_seed(0)
        assert torch.equal(result, attention(spec, clip=-5.0, **{name: number})(X))


@both
def test_changing_specs(function: Any) -> None:
    specs: list[tuple[Spec, dict[str, Any]]] = [(Exaq(bits=bits), {"clip": -5.0}) for bits in (2, 3)]  # type: ignore[arg-type]
    for numbered in (specs, [(Index(bits=bits), {}) for bits in (5, 4)]):
        compiled = in_one_graph(lambda x, spec, numbers: function(spec, **numbers)(x))
        for spec, numbers in (*numbered, *numbered):
            assert torch.equal(compiled(X, spec, numbers), function(spec, **numbers)(X))


@both
def test_numbers_of_heads(function: Any) -> None:
    clips, offsets = [-5.0, -4.0, -3.0, -2.0], {"beta": [0.1, 0.2, 0.3, 0.4], "gamma": (3.0, 4.0, 5.0, 6.0)}
    for run in (function(Exaq(share="head"), clip=clips), function(ConSmax(), **offsets)):
        assert torch.equal(in_one_graph(run)(X), run(X))


@pytest.mark.parametrize("clip", [torch.tensor(-4.0), torch.tensor([-4.0])[0].numpy()])
def test_numbers_that_are_no_python_numbers_break_the_graph(clip: Any) -> None:
    run = softmax(Exaq(), clip=clip)
    torch.compiler.reset()
    assert torch.equal(torch.compile(run, backend="eager")(X), run(X))


@pytest.mark.parametrize(
    ("function", "case"),
    [
        pytest.param(function, case, marks=[] if (place < 1) == (function is attention) else pytest.mark.slow)
        for function in (softmax, attention)
        for place, case in enumerate(LEARNED)
    ],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
def test_integers_of_learned_tensors(case: Case, function: Any) -> None:
    run = function(case.spec, mode="integer", **learned_tensors(case))
    torch.compiler.reset()
    assert torch.equal(torch.compile(run, backend="eager")(X), run(X))


@torch.no_grad()
def test_learned_tensors_over_a_cache_of_codes() -> None:
    cache, spec, query = KeyValueCache(X, X), ConSmax(), X[:, :, :1]
    tensors = {"beta": torch.linspace(0.1, 1.0, HEADS), "gamma": torch.linspace(3.0, 9.0, HEADS)}
    torch.compiler.reset()
    compiled: Any = torch.compile(lambda x: cache.attention(x, spec, **tensors), backend="eager")
    assert torch.equal(compiled(query), cache.attention(query, spec, **tensors))


def test_gradients_of_learned_tensors_over_a_cache_of_codes() -> None:
    cache, spec, query = KeyValueCache(X, X), ConSmax(), X[:, :, :1]
    beta, gamma = torch.tensor(0.5, requires_grad=True), torch.tensor(400.0, requires_grad=True)
    output = cache.attention(query, spec, beta=beta, gamma=gamma)
    # The output is proportional to exp(-beta) / gamma, since no probability is clamped.
    for gradient, factor in zip(torch.autograd.grad(output.sum(), (beta, gamma)), (-1.0, -1 / 400), strict=True):
        assert torch.allclose(gradient, output.sum() * factor, rtol=1e-4)


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
def test_softmax_compiles_to_the_kernel_and_is_exported_as_torchs_own_operator() -> None:
    spec = Exact()

    class Attention(torch.nn.Module):
        def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
            return softmaxkit.attention(query, tokens, tokens, spec)

    tokens = torch.randn(1, 8, 1024, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    query = tokens[:, :, :3].contiguous()
    assert softmaxkit.explain(spec, query, tokens, tokens).native
    if not MISSES_FLOATS:  # Dynamo of torch 2.9 says of every graph that it will be exported
        assert torch.equal(in_one_graph(Attention())(query, tokens), Attention()(query, tokens))
    dynamic = {"query": {2: torch.export.Dim("queries")}, "tokens": {2: torch.export.Dim("keys")}}
    program = torch.export.export(Attention(), (query, tokens), dynamic_shapes=dynamic)
    called = " ".join(str(node.target) for node in program.graph.nodes)
    assert "aten.scaled_dot_product_attention" in called
    assert "softmaxkit" not in called


def test_softmax_over_shared_keys_compiles_for_any_shape() -> None:
    """torch's attention refuses Dynamo's symbol for whether heads share keys."""
    spec = Exact()
    query, tokens = torch.randn(2, 4, 20, 16), torch.randn(2, 2, 30, 16)

    def attend(query: Tensor, tokens: Tensor) -> Tensor:
        return softmaxkit.attention(query, tokens, tokens, spec, enable_gqa=True)

    result = in_one_graph(attend, dynamic=True)(query, tokens)
    assert torch.allclose(result, attend(query, tokens), rtol=1e-6)


def test_a_mask_of_fixed_size_for_queries_of_any_size() -> None:
    """Dynamo decides by identity whether a size is among symbolic ones."""
    spec, mask = Exaq(), torch.rand(1, 1, 30, 30) < 0.5

    def attend(query: Tensor, mask: Tensor | None) -> Tensor:
        return softmaxkit.attention(query, query, query, spec, mask, clip=-4.0)

    compiled = in_one_graph(attend)
    for size, given in ((20, None), (30, None), (30, mask)):  # the second size makes it symbolic
        query = torch.randn(1, 4, size, 16)
        assert torch.equal(compiled(query, given), attend(query, given))
