"""ConSmax through FlexAttention: softmax attention times the exponential of its log-sum, with torch's CPU reference."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch.nn.attention import flex_attention

import softmaxkit
from softmaxkit import ConSmax, Exaq
from softmaxkit.kernels import backends, builds, flex

SPEC = ConSmax(ceiling=0.5)
NUMBERS = {"beta": 0.4, "gamma": 1.5}

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


@pytest.fixture(autouse=True)
def by_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, "flex")
    backends.reset()


def tensors(heads: int = 2, key_heads: int = 2, queries: int = 20, keys: int = 30) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(2, heads, queries, 16), (2, key_heads, keys, 16), (2, key_heads, keys, 24)]
    return [torch.randn(shape, generator=random) for shape in shapes]


def truth(operands: list[Tensor], offset: Any, mask: Tensor | None = None) -> Tensor:
    query, key, value = (x.double() for x in operands)
    groups = query.shape[1] // key.shape[1]
    exponent = query @ key.repeat_interleave(groups, 1).mT / 4 - offset
    weights = exponent.clamp(max=math.log(SPEC.ceiling)).exp()
    weights = weights if mask is None else torch.where(mask, weights, 0.0)
    return weights @ value.repeat_interleave(groups, 1)


def test_masks_are_not_kept_alive() -> None:
    query, key, _ = tensors()
    before = len(flex._of_masks)
    masks = [torch.rand(20, 30) < 0.5 for _ in range(5)]
    blocks = [flex._blocks(query, key, mask, False) for mask in masks for _ in range(2)]
    assert blocks[0] is blocks[1]
    assert len(flex._of_masks) == before + 5
    masks.clear()
    gc.collect()
    assert len(flex._of_masks) == before


def test_torch_s_limit_of_recompilations_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex.torch, "compile", lambda run, **_: run)
    monkeypatch.setattr(flex, "_run", lambda *_: dynamo_config.recompile_limit)
    flex._compiled.cache_clear()
    assert flex._compiled()(*tensors()) == flex.FORMS
    flex._compiled.cache_clear()


OFFSET = NUMBERS["beta"] + math.log(NUMBERS["gamma"])


@pytest.mark.parametrize("case", ["all", "causal", "mask", "shared keys"])
def test_results_are_near_the_clamped_exponential_in_float64(case: str) -> None:
    operands = tensors(heads=4 if case == "shared keys" else 2)
    options: dict[str, Any] = {"enable_gqa": True}
    mask = None
    if case == "causal":
        options["is_causal"], mask = True, torch.ones(20, 30, dtype=torch.bool).tril()
    if case == "mask":
        mask = torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(1)) < 0.5
        mask[0, 0, 3] = False
        options["attn_mask"] = mask
    assert softmaxkit.explain(SPEC, *operands, enable_gqa=True, **NUMBERS).backend == "flex"
    result = softmaxkit.attention(*operands, SPEC, **options, **NUMBERS)
    torch.testing.assert_close(result.double(), truth(operands, OFFSET, mask), rtol=2e-5, atol=2e-6)
    if case == "mask":
        assert (result[0, :, 3] == 0).all()


def test_block_masks_are_cached_until_the_mask_changes() -> None:
    operands, mask = tensors(), torch.ones(20, 30, dtype=torch.bool)
    first = flex._blocks(operands[0], operands[1], mask, False)
    assert flex._blocks(operands[0], operands[1], mask, False) is first
    mask[:, :5] = False
    assert flex._blocks(operands[0], operands[1], mask, False) is not first
    result = softmaxkit.attention(*operands, SPEC, mask, **NUMBERS)
    torch.testing.assert_close(result.double(), truth(operands, OFFSET, mask), rtol=2e-5, atol=2e-6)
    assert flex._blocks(operands[0], operands[1], None, True) is flex._blocks(operands[0], operands[1], None, True)


@pytest.mark.parametrize("is_causal", [True, False])
def test_block_masks_of_a_graph_are_not_shared_with_calls_outside(
    is_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph captures is computed when it is replayed, in memory that is then the graph's."""
    query, key, _ = tensors(queries=24)
    mask = None if is_causal else torch.ones(24, 30, dtype=torch.bool)
    arguments = query, key, mask, is_causal
    monkeypatch.setattr(flex, "is_captured", lambda device: True)
    captured = flex._blocks(*arguments)
    monkeypatch.setattr(flex, "is_captured", lambda device: False)
    outside = flex._blocks(*arguments)
    assert outside is not captured
    assert flex._blocks(*arguments) is outside
    monkeypatch.setattr(flex, "is_captured", lambda device: True)
    assert flex._blocks(*arguments) is not outside  # whose memory a later call may free


@pytest.mark.parametrize("is_causal", [True, False])
def test_block_masks_made_in_inference_mode_serve_training(is_causal: bool) -> None:
    query, key, _ = tensors(queries=23)
    mask = None if is_causal else torch.ones(23, 30, dtype=torch.bool)
    with torch.inference_mode():
        blocks = flex._blocks(query, key, mask, is_causal)
    assert blocks is not None
    assert not blocks.kv_indices.is_inference()  # autograd refuses to save tensors of inference mode


def test_a_mask_of_inference_mode() -> None:
    """Tensors of inference mode have no version, so that no block mask can be cached for them."""
    operands = tensors()
    with torch.inference_mode():
        mask = torch.ones(20, 30, dtype=torch.bool).tril(5)
        result = softmaxkit.attention(*operands, SPEC, mask, **NUMBERS)
        mask[:, 3] = False
        changed = softmaxkit.attention(*operands, SPEC, mask, **NUMBERS)
    torch.testing.assert_close(changed.double(), truth(operands, OFFSET, mask), rtol=2e-5, atol=2e-6)
    assert not torch.equal(result, changed)


def test_a_mask_besides_causality_is_rejected() -> None:
    query = tensors()[0]
    with pytest.raises(ValueError, match="either a mask or is_causal"):
        flex.attend(query, query, query, backends_call(torch.zeros(2)), torch.zeros(20, 20, dtype=torch.bool), True)


def test_gradients_end_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch refuses gradients on the CPU although its reference can compute them; the check is disabled."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    operands = [x.requires_grad_() for x in tensors()]
    exact = [x.detach().double().requires_grad_() for x in operands]
    offset, exact_offset = (torch.tensor([0.5, 1.0]).to(x.dtype).requires_grad_() for x in (operands[0], exact[0]))
    call = backends_call(offset)
    result, expected = flex.attend(*operands, call), truth(exact, exact_offset[:, None, None])
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
    result.backward(weights)
    expected.backward(weights.double())
    assert exact_offset.grad is not None
    for tensor, wide in zip([*operands, offset], [*exact, exact_offset], strict=True):
        torch.testing.assert_close(tensor.grad.double(), wide.grad, rtol=1e-4, atol=2e-5)  # type: ignore[union-attr]
    unclamped = -(truth(exact, exact_offset[:, None, None]) * weights.double()).sum((0, 2, 3))
    assert (unclamped - exact_offset.grad).abs().min() > 0.1  # enough keys are at the limit to make a difference


def test_infinite_values_do_not_reach_a_query_that_attends_to_none() -> None:
    query, key, value = tensors()
    value = value.index_fill(2, torch.tensor(3), math.inf)
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
    mask[0] = False
    result = flex.attend(query, key, value, backends_call(torch.zeros(2)), mask)
    assert (result[:, :, 0] == 0).all()
    assert not result[:, :, 1:].isfinite().any()


def backends_call(offset: Tensor) -> Any:
    from softmaxkit.kernels.attention import AttentionCall

    return AttentionCall.by_exponential(offset, SPEC.ceiling)


def test_unsupported_calls() -> None:
    operands = tensors()
    reasons = softmaxkit.explain(Exaq(), *operands, clip=-4.0).refusals
    assert reasons["flex"] == ["it has no such kernel"]
    narrow = [x[..., :8] for x in operands]
    assert softmaxkit.explain(SPEC, *narrow, **NUMBERS).refusals["flex"] == ["it needs 16 channels or more"]
    wide = [x.requires_grad_() for x in operands]
    assert softmaxkit.explain(SPEC, *wide, **NUMBERS).refusals["flex"] == [
        "on the CPU it has no gradient, and a tensor requires one"
    ]
    assert softmaxkit.explain(SPEC, torch.zeros(2, 9), beta=1.0, gamma=1.0).refusals["flex"] == [
        "it has no such kernel"
    ]
    with pytest.raises(ValueError, match=r"offset must be \(2,\) or a scalar, got \(3,\)"):
        flex.attend(*(x.detach() for x in operands), backends_call(torch.zeros(3)))
