"""Attention on the Triton kernels compared with float64: forward and backward, masks, odd sizes, dtypes, NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_cases import CASES, FORMS, FROM_ZERO, LOGISTIC, OF_HEADS, WEIGHTS, Case, float64_attention
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exaq, Sigmoid, Spec
from softmaxkit.kernels.attention import AttentionCall

pytest.importorskip("triton")

BY_LEVELS = AttentionCall.by_levels(-4.0, Exaq(bits=2).exponentials(-4.0))
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.012, torch.float16: 0.0015}
"""Of a result's norm: some roundings of a number in float32; two or three of weights and results below that."""


def relative(given: Tensor, truth: Tensor) -> float:
    return ((given.detach().double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def check(case: Case, spec: Spec, numbers: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    tensors, mask = case.tensors(device, dtype), case.seen(device)
    how = {"attn_mask": mask, "is_causal": case.is_causal, "scale": case.scale, "enable_gqa": True}
    given = softmaxkit.attention(*tensors, spec, **how, **numbers)  # type: ignore[arg-type]
    wide = [x.detach().double().requires_grad_() for x in tensors]
    truth = float64_attention(wide, spec, numbers, mask, case)
    weights = torch.randn(given.shape, generator=torch.Generator().manual_seed(2)).to(device, dtype)
    given.backward(weights)
    truth.backward(weights.double())
    assert given.dtype == dtype
    assert relative(given, truth) < TOLERANCE[dtype]
    for tensor, exact in zip(tensors, wide, strict=True):
        assert tensor.grad is not None
        assert exact.grad is not None
        assert relative(tensor.grad, exact.grad) < 2 * TOLERANCE[dtype]
    if mask is not None:
        assert (given[..., 0, :] == 0).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exponentials_and_their_gradients_are_those_of_float64(case: Case, device: torch.device) -> None:
    check(case, *WEIGHTS[0], device, torch.float32)


@pytest.mark.parametrize("case", CASES[1:5], ids=str)
def test_logistic_functions_and_their_gradients_are_those_of_float64(case: Case, device: torch.device) -> None:
    check(case, *LOGISTIC, device, torch.float32)


@pytest.mark.parametrize(
    ("spec", "numbers", "case"),
    [
        *((*WEIGHTS[1], case) for case in (CASES[2], CASES[4])),
        *((*FROM_ZERO, case) for case in (CASES[2], CASES[4])),
        (*OF_HEADS, CASES[2]),
        *((*weights, CASES[2]) for weights in WEIGHTS[2:]),
        *(pytest.param(*weights, CASES[4], marks=pytest.mark.slow) for weights in WEIGHTS[2:]),
    ],
    ids=str,
)
def test_levels_and_their_gradients_are_those_of_float64(
    case: Case, spec: Spec, numbers: dict[str, Any], device: torch.device
) -> None:
    check(case, spec, numbers, device, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_half_precision(spec: Spec, numbers: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
    check(Case(queries=70, keys=140, channels=64, values=64, key_heads=1, is_causal=True), spec, numbers, device, dtype)


@pytest.mark.parametrize(
    ("ceiling", "per_head"),
    [
        (0.1, True),
        (1.0, False),
        (100.0, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.1, False), (1.0, True), (100.0, False))),
    ],
)
def test_gradients_reach_beta_and_gamma(ceiling: float, per_head: bool, device: torch.device) -> None:
    tensors = [x.detach() for x in Case(queries=20, keys=40).tensors(device)]
    gradients = []
    for run in ("kernel", "float64"):
        shape = (2,) if per_head else ()
        numbers = {
            name: torch.full(shape, number, device=device, requires_grad=True)
            for name, number in (("beta", 0.3), ("gamma", 1.7))
        }
        if run == "kernel":
            result = softmaxkit.attention(*tensors, ConSmax(ceiling=ceiling), **numbers)
            assert result.grad_fn is not None
        else:
            query, key, value = (x.double() for x in tensors)
            offset = (numbers["beta"].double() + numbers["gamma"].double().log()).reshape(-1, 1, 1)
            exponent = query @ key.mT * query.shape[-1] ** -0.5 - offset
            result = exponent.clamp(max=math.log(ceiling)).exp() @ value
        (result * torch.linspace(-1, 1, result.shape[-1], device=device)).sum().backward()
        gradients.append([number.grad for number in numbers.values()])
    for given, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(given, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per_head", [True, False])
def test_gradients_reach_the_bias(per_head: bool, device: torch.device) -> None:
    query, key, value = (x.detach() for x in Case(queries=20, keys=40).tensors(device))
    weights, gradients = torch.linspace(-1, 1, value.shape[-1], device=device), []
    for dtype in (torch.float32, torch.float64):
        bias = torch.full((2,) if per_head else (), -0.7, device=device, requires_grad=True)
        given = [x.to(dtype) for x in (query, key, value)]
        if dtype == torch.float32:
            result = softmaxkit.attention(*given, Sigmoid(), bias=bias)
        else:
            scores = given[0] @ given[1].mT * query.shape[-1] ** -0.5
            result = torch.sigmoid(scores + bias.double().reshape(-1, 1, 1)) @ given[2]
        (result * weights).sum().backward()
        gradients.append(bias.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_dropout_keeps_its_share_and_gradients_know_which(
    spec: Spec, numbers: dict[str, Any], device: torch.device
) -> None:
    rate = 0.25
    tensors = Case(batch=2, queries=40, keys=40, values=40, key_heads=1).tensors(device)
    # With the identity for values the output is the weights themselves.
    one = torch.eye(40, device=device).expand(2, 1, 40, 40)
    how: dict[str, Any] = {"dropout_p": rate, "is_causal": True, "enable_gqa": True, **numbers}
    torch.manual_seed(5)
    dropped = softmaxkit.attention(*tensors[:2], one, spec, **how).detach()
    torch.manual_seed(5)
    result = softmaxkit.attention(*tensors, spec, **how)
    torch.testing.assert_close(result, dropped @ tensors[2], rtol=1e-5, atol=1e-6)
    assert not torch.equal(dropped, softmaxkit.attention(*tensors[:2], one, spec, **how))
    case = Case(batch=2, queries=40, keys=40, values=40, key_heads=1, is_causal=True)
    wide = [x.detach().double().requires_grad_() for x in tensors]
    weights = float64_attention([*wide[:2], one.double()], spec, numbers, None, case)
    kept = dropped != 0
    lower = torch.ones(40, 40, dtype=torch.bool, device=device).tril()
    share = kept[..., lower].double().mean().item()
    assert abs(share - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / kept[..., lower].numel())
    truth = torch.where(kept, weights / (1 - rate), 0.0) @ wide[2]
    gradient = torch.randn(result.shape, generator=torch.Generator().manual_seed(2)).to(device)
    result.backward(gradient)
    truth.backward(gradient.double())
    for tensor, exact in zip(tensors, wide, strict=True):
        assert relative(tensor.grad, exact.grad) < 4 * TOLERANCE[torch.float32]  # type: ignore[arg-type]


@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_dropout_of_all_gives_zeros(spec: Spec, numbers: dict[str, Any], device: torch.device) -> None:
    tensors = Case(queries=20, keys=20).tensors(device)
    result = softmaxkit.attention(*tensors, spec, dropout_p=1.0, **numbers)
    result.sum().backward()
    assert not result.any()
    for tensor in tensors:
        assert tensor.grad is not None
        assert not tensor.grad.any()


@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_nan_reaches_the_rows_that_attend_to_it(spec: Spec, numbers: dict[str, Any], device: torch.device) -> None:
    query, key, value = (x.detach() for x in Case(queries=8, keys=8).tensors(device))
    query[0, 0, 3, 0] = math.nan
    result = softmaxkit.attention(query, key, value, spec, is_causal=True, **numbers)
    assert result[0, 0, 3].isnan().all()
    assert not result[0, 0, :3].isnan().any()
    assert not result[0, 1].isnan().any()


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
def test_any_strides(layout: str, device: torch.device) -> None:
    spec, numbers = WEIGHTS[0]
    query, key, value = (x.detach() for x in Case(heads=2, queries=20, keys=20).tensors(device))
    changed = {
        "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "sliced": lambda x: torch.stack((x, x), -1)[..., 0],
        "expanded": lambda x: x[:, :1].expand(x.shape),
    }[layout]
    given = [changed(x) for x in (query, key, value)]
    result = softmaxkit.attention(*given, spec, **numbers)
    assert torch.equal(result, softmaxkit.attention(*(x.contiguous() for x in given), spec, **numbers))


def test_nothing_to_attend_to_and_nobody_who_attends(device: torch.device) -> None:
    spec, numbers = WEIGHTS[1]
    query, key, value = (x.detach() for x in Case(queries=5, keys=7).tensors(device))
    assert (softmaxkit.attention(query, key[:, :, :0], value[:, :, :0], spec, **numbers) == 0).all()
    assert softmaxkit.attention(query[:, :, :0], key, value, spec, **numbers).shape == (1, 2, 0, 16)


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_infinite_values_do_not_reach_a_query_that_attends_to_none(
    spec: Spec, numbers: dict[str, Any], queries: int, device: torch.device
) -> None:
    query, key, value = (x.detach() for x in Case(queries=queries, keys=70).tensors(device))
    value[:, :, 3] = torch.inf
    mask = torch.ones(queries, 70, dtype=torch.bool, device=device)
    mask[0] = False
    result = softmaxkit.attention(query, key, value, spec, mask, **numbers)
    assert (result[:, :, 0] == 0).all()
    assert not result[:, :, 1:].isfinite().any()


def test_levels_that_are_not_exponentials_are_refused(device: torch.device) -> None:
    from softmaxkit.kernels.triton.attention import attend

    tensors = [x.detach() for x in Case().tensors(device)]
    attend(*tensors, AttentionCall.by_levels(-4.0, Exaq().exponentials(-4.0)))
    with pytest.raises(ValueError, match="exponentials of evenly spaced levels"):
        attend(*tensors, AttentionCall.by_levels(-4.0, [0.1, 0.2, 0.5, 1.0]))


def test_torch_s_own_checks_of_the_operator(device: torch.device) -> None:
    from softmaxkit.kernels.triton.attention import attention

    tensors = Case(queries=5, keys=7).tensors(device)
    offset = torch.tensor([0.5, 1.0], device=device, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    forms: list[tuple[Any, ...]] = [(offset, None, None, form, 0, False, 0.0) for form in ("exponential", "logistic")]
    steps = torch.tensor([1.0, 2.0], device=device)
    for arguments in (*forms, (steps, None, None, "levels", 4, False, 0.0)):
        torch.library.opcheck(attention.overload, (*tensors, *arguments, False, 0.25, 0.0), test_utils=checks)


BY_EXPONENTIAL = AttentionCall.by_exponential(torch.tensor(1.0), 2.0)


@pytest.mark.parametrize(
    ("call", "queries", "lies_in_rows"),
    [
        (BY_EXPONENTIAL, 130, True),
        (BY_LEVELS, 130, False),
        *(
            pytest.param(call, 256, rows, marks=pytest.mark.slow)
            for call in (BY_EXPONENTIAL, BY_LEVELS)
            for rows in (False, True)
        ),
    ],
)
def test_tiles_by_the_copy_engine_change_nothing(
    call: AttentionCall, queries: int, lies_in_rows: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softmaxkit.kernels.triton import launch
    from softmaxkit.kernels.triton.attention import attend

    random = torch.Generator().manual_seed(0)
    shape = (2, queries, 2, 32) if lies_in_rows else (2, 2, queries, 32)
    rows = [torch.randn(shape, generator=random).to(device, torch.bfloat16) for _ in range(3)]
    results = []
    for engine in (True, False):
        described = []
        plain = launch.tiles_of
        monkeypatch.setattr(launch, "has_copy_engine", lambda device, engine=engine: engine)
        monkeypatch.setattr(
            "softmaxkit.kernels.triton.attention.tiles_of",
            lambda *given, plain=plain, seen=described: seen.append(plain(*given)) or seen[-1],
        )
        tensors = [x.clone().requires_grad_() for x in rows]
        operands = [x.transpose(1, 2) if lies_in_rows else x for x in tensors]
        output = attend(*operands, call, is_causal=True)
        output.square().sum().backward()
        assert {is_described for is_described, *_ in described} == {engine}
        assert len(described) == 3
        results.append([output, *(x.grad for x in tensors)])
    for by_engine, by_pointers in zip(*results, strict=True):
        assert torch.equal(by_engine, by_pointers)


def test_what_the_copy_engine_does_not_take_comes_by_pointers(device: torch.device) -> None:
    from softmaxkit.kernels.triton.launch import tiles_of

    good = torch.zeros(2, 3, 40, 32, dtype=torch.bfloat16, device=device)
    if not tiles_of((good, good), 16)[0]:
        pytest.skip("this card has no copy engine")
    for bad in (
        good[..., :24],  # channels that are no power of two
        good.float(),
        torch.zeros(2, 3, 40, 33, dtype=torch.bfloat16, device=device)[..., 1:],  # rows that are not aligned
    ):
        assert tiles_of((good, bad), 16) == (False, [None, None], [0] * 6)
