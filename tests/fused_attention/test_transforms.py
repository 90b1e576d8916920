"""Derivatives of every kind and transforms of torch.func: methods x modes x back ends against torch's own formulas."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import BY_METHOD
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import softmaxkit
from softmaxkit import ConSmax, Spec
from softmaxkit.kernels import backends, builds

METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (cases.default.spec, dict(cases.default.numbers)) for cases in BY_METHOD.values()
]
IDS = [spec.method for spec, _ in METHODS]
SCORES = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
TANGENT = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1))
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
"""Of float32: sums of 7 terms of size 1, and of twice as many for second derivatives."""


BUILDS = [*builds.NATIVE, "none"]


@pytest.fixture(params=BUILDS, autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    built = builds.supported()
    if request.param != "none" and request.param not in built:
        pytest.skip(f"the {request.param} kernels are not built, or do not run on this processor")
    monkeypatch.setenv(builds.VARIABLE, request.param)
    backends.reset()
    return request.param


def truth(spec: Spec, numbers: dict[str, Any], scores: Tensor) -> Tensor:
    """The float form through torch, in whatever dtype and under whatever transform."""
    module = spec.module(**numbers)
    return module.float_forward(scores, torch.ones_like(scores, dtype=torch.bool))


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_forward_mode_derivatives(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers)
    _, given = torch.func.jvp(module, (SCORES,), (TANGENT,))
    _, expected = torch.func.jvp(lambda x: truth(spec, numbers, x), (SCORES,), (TANGENT,))
    assert expected.abs().max() > 0.01
    assert torch.allclose(given, expected, **TOLERANCE)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(SCORES, TANGENT)
        tangent = torch.autograd.forward_ad.unpack_dual(module(dual)).tangent
    assert torch.allclose(tangent, expected, **TOLERANCE)
    assert torch.allclose(
        torch.func.jacfwd(module)(SCORES[0, 0]),
        torch.func.jacrev(lambda x: truth(spec, numbers, x))(SCORES[0, 0]),
        **TOLERANCE,
    )


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_higher_derivatives_and_vmap(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers)

    def loss(call: Any) -> Any:
        return lambda x: (call(x) * TANGENT[0, 0]).square().sum()

    ours, theirs = loss(module), loss(lambda x: truth(spec, numbers, x))
    row = SCORES[0, 0]
    assert torch.allclose(torch.func.grad(ours)(row), torch.func.grad(theirs)(row), **TOLERANCE)
    rows = SCORES[0]
    expected = torch.func.vmap(torch.func.grad(theirs))(rows)
    assert torch.allclose(torch.func.vmap(torch.func.grad(ours))(rows), expected, **TOLERANCE)
    assert torch.allclose(torch.func.vmap(module)(rows), module(rows), **TOLERANCE)
    assert torch.allclose(torch.func.hessian(ours)(row), torch.func.hessian(theirs)(row), **TOLERANCE)


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_double_backward(spec: Spec, numbers: dict[str, Any]) -> None:
    seconds = []
    for call in (spec.module(**numbers), lambda x: truth(spec, numbers, x)):
        scores = SCORES.clone().requires_grad_()
        (first,) = torch.autograd.grad((call(scores) * TANGENT).square().sum(), scores, create_graph=True)
        (second,) = torch.autograd.grad((first * TANGENT).sum(), scores)
        seconds.append(second)
    assert torch.allclose(*seconds, **TOLERANCE)


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_export_and_compile(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers).eval()
    exported = torch.export.export(module, (SCORES,)).module()
    assert torch.allclose(exported(SCORES), module(SCORES), **TOLERANCE)
    module.mode = "integer"
    with pytest.raises(RuntimeError, match="the integer mode cannot be exported"):
        torch.export.export(module, (SCORES,))


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_trace(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers).eval()
    for trace in (lambda: torch.jit.trace(module, (SCORES,)), lambda: make_fx(module)(SCORES)):
        module.mode = "float"
        assert torch.allclose(trace()(TANGENT), module(TANGENT), **TOLERANCE)
        module.mode = "integer"
        with pytest.raises(RuntimeError, match="the integer mode cannot be exported or traced"):
            trace()


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_trace_of_attention(spec: Spec, numbers: dict[str, Any]) -> None:
    def attention(x: Tensor) -> Tensor:
        return softmaxkit.attention(x, x, x, spec, **numbers)

    expected = softmaxkit.attention(*[TANGENT.double()] * 3, spec, **numbers).float()
    assert torch.allclose(make_fx(attention)(SCORES)(TANGENT), expected, **TOLERANCE)


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_integers_say_that_they_do_not_go_through_transforms(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(mode="integer", **numbers)
    for transform in (
        lambda: torch.func.vmap(module)(SCORES),
        lambda: torch.func.grad(lambda x: module(x).sum())(SCORES),
        lambda: torch.func.jvp(module, (SCORES,), (TANGENT,)),
    ):
        with pytest.raises(RuntimeError, match="integer mode does not support transforms"):
            transform()


@pytest.mark.parametrize("mode", ["float", "integer"])
def test_gradients_reach_the_learned_numbers_that_are_given_as_tensors(mode: str) -> None:
    query = torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(2))
    spec = ConSmax(output_bits=16)
    for run in (
        lambda **numbers: softmaxkit.softmax(SCORES, spec, mode=mode, **numbers),
        lambda **numbers: softmaxkit.attention(query, query, query.abs(), spec, mode=mode, **numbers),
    ):
        numbers = {name: torch.tensor(value, requires_grad=True) for name, value in (("beta", 4.0), ("gamma", 3.0))}
        output = run(**numbers).sum()
        output.backward()
        # exp(s - beta) / gamma: -p by beta, and -p / gamma by gamma; integers are off by their last bit.
        tolerance = 1e-5 if mode == "float" else 0.05
        assert numbers["beta"].grad.item() == pytest.approx(-output.item(), rel=tolerance)  # type: ignore[union-attr]
        assert numbers["gamma"].grad.item() == pytest.approx(-output.item() / 3, rel=tolerance)  # type: ignore[union-attr]


def every_build_with_every_method() -> Iterator[Any]:
    """Yield them. Dynamo sees the same operators in all builds: the fast tests have one, and once torch's functions."""
    for build, (spec, numbers) in itertools.product(BUILDS, METHODS):
        marks = [] if build == "plain" or (build, spec) == ("none", METHODS[0][0]) else pytest.mark.slow
        yield pytest.param(build, spec, numbers, id=f"{build}-{spec.method}", marks=marks)


@pytest.mark.parametrize(("backend", "spec", "numbers"), every_build_with_every_method(), indirect=["backend"])
def test_compiled_forward_mode_derivatives(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers)
    _, expected = torch.func.jvp(lambda x: truth(spec, numbers, x), (SCORES,), (TANGENT,))

    def inside(x: Tensor) -> Any:
        return torch.func.jvp(module, (x,), (TANGENT,))[1]

    assert torch.allclose(torch.compile(inside, backend="eager")(SCORES), expected, **TOLERANCE)
    compiled = torch.compile(module, backend="eager")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(SCORES, TANGENT)
        tangent = torch.autograd.forward_ad.unpack_dual(compiled(dual)).tangent
    assert torch.allclose(tangent, expected, **TOLERANCE)
    torch._dynamo.reset()


@pytest.mark.parametrize(("backend", "spec", "numbers"), every_build_with_every_method(), indirect=["backend"])
@torch.no_grad()
def test_dynamic_sizes_compile(spec: Spec, numbers: dict[str, Any]) -> None:
    """Where Dynamo takes a module's numbers for symbols too."""
    torch.compiler.reset()
    module = spec.module(**numbers)
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for keys in (8, 9, 33):
        scores = torch.randn(2, 3, 5, keys)
        assert torch.equal(compiled(scores), module(scores))


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=IDS)
def test_an_exported_module_gives_its_tangent_or_refuses(spec: Spec, numbers: dict[str, Any]) -> None:
    module = spec.module(**numbers).eval()
    exported = torch.export.export(module, (SCORES,)).module()
    _, expected = torch.func.jvp(lambda x: truth(spec, numbers, x), (SCORES,), (TANGENT,))
    if module.choose(SCORES)[1].native:
        with pytest.raises(RuntimeError, match="kernels have no forward-mode derivative"):
            torch.func.jvp(exported, (SCORES,), (TANGENT,))
    else:
        assert torch.allclose(torch.func.jvp(exported, (SCORES,), (TANGENT,))[1], expected, **TOLERANCE)


def test_learned_numbers_that_are_given_take_every_transform() -> None:
    beta, gamma = torch.tensor(1.0), torch.tensor(2.0)
    one = torch.ones(())

    def by(scores: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        return torch.exp(torch.clamp(scores - beta - gamma.log(), max=0.0))

    def ours(scores: Tensor, beta: Any, gamma: Any) -> Any:
        return softmaxkit.softmax(scores, ConSmax(), beta=beta, gamma=gamma)

    for argument in range(3):
        chosen = ((SCORES, beta, gamma)[argument],)
        tangent = TANGENT if argument == 0 else one

        def call(value: Tensor, function: Any, argument: int = argument) -> Any:
            given = [SCORES, beta, gamma]
            given[argument] = value
            return function(*given)

        expected = torch.func.jvp(lambda x: call(x, by), chosen, (tangent,))[1]
        assert torch.allclose(torch.func.jvp(lambda x: call(x, ours), chosen, (tangent,))[1], expected, **TOLERANCE)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(chosen[0], tangent)
            given = torch.autograd.forward_ad.unpack_dual(call(dual, ours)).tangent
        assert torch.allclose(given, expected, **TOLERANCE)
        gradients = [
            torch.func.grad(lambda x, f=function: call(x, f).square().sum())(chosen[0]) for function in (ours, by)
        ]
        assert torch.allclose(*gradients, **TOLERANCE)
    assert not ours(SCORES, 1.0, 2.0).requires_grad


def test_attention_with_learned_numbers_takes_transforms() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))

    def call(query: Tensor, gamma: Any) -> Any:
        return softmaxkit.attention(query, key, value, ConSmax(), beta=1.0, gamma=gamma)

    def by(query: Tensor, gamma: Tensor) -> Tensor:
        scores = query @ key.mT / 8**0.5
        return torch.exp(torch.clamp(scores - 1.0 - gamma.log(), max=0.0)) @ value

    gamma = torch.tensor(2.0)
    for function in (torch.func.jacrev, torch.func.jacfwd):
        for argument in (0, 1):
            given, expected = (function(f, argnums=argument)(query, gamma) for f in (call, by))
            assert torch.allclose(given, expected, **TOLERANCE)
