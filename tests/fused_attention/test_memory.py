"""Attention by torch allocates and keeps no more than its inputs, masks and stripes: counted in elements, not timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from cases import DEFAULTS
from memory_use import memory_use
from method_cases import Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import softmaxkit
from softmaxkit.fused_attention import recomputed, torch_attention
from softmaxkit.fused_attention.prepared import prepare

HEADS, TOKENS, CHANNELS = 4, 256, 8

MASKS = {
    "boolean, by key": torch.arange(TOKENS) > 3,
    "boolean, by key, four axes": (torch.arange(TOKENS) > 3)[None, None, None],
    "boolean, by key, expanded": (torch.arange(TOKENS) > 3).expand(1, HEADS, TOKENS, TOKENS),
    "bias, by key": torch.linspace(-1.0, 1.0, TOKENS)[None, None, None],
    "bias, by key, expanded": torch.linspace(-1.0, 1.0, TOKENS).expand(1, HEADS, TOKENS, TOKENS),
    "bias, by key and head": torch.linspace(-1.0, 1.0, HEADS * TOKENS).reshape(1, HEADS, 1, TOKENS),
}


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest memory behind any result of an operator."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return result


def _inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, HEADS, TOKENS, CHANNELS, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("spec", [softmaxkit.Exact(), softmaxkit.Softermax()], ids=lambda spec: spec.method)
def test_a_mask_that_repeats_itself_is_not_expanded(spec: softmaxkit.Spec, mask: Tensor) -> None:
    with torch.no_grad(), LargestTensor() as largest:
        softmaxkit.attention(*_inputs(), spec, mask)
    # torch's own kernel computes on blocks; apart from these nothing is as large as the scores of one head.
    assert HEADS * TOKENS * CHANNELS <= largest.elements < TOKENS * TOKENS


def test_a_mask_of_four_axes_stays_the_same_tensor() -> None:
    """So that FlexAttention's block masks, which are kept by the mask, are made once for the layers of a model."""
    mask = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    assert prepare(*_inputs(), softmaxkit.Exact(), mask, 0.0, False, None, False, "float", {}).mask is mask


@pytest.mark.parametrize("mask", [None, MASKS["boolean, by key, four axes"]], ids=["none", "by key"])
def test_partial_attention_copies_no_keys_for_the_heads_that_share_them(mask: Tensor | None) -> None:
    _, key, value = _inputs()
    query = torch.randn(1, 16 * HEADS, 1, CHANNELS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), LargestTensor() as largest:
        state = softmaxkit.partial_attention(query, key, value, softmaxkit.Exact(), mask, enable_gqa=True)
    assert largest.elements <= max(key.numel(), 16 * HEADS * TOKENS)
    expected = softmaxkit.attention(query, key, value, softmaxkit.Exact(), mask, enable_gqa=True)
    torch.testing.assert_close(state.result(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_stripes_write_into_one_output(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of stripes that lay between their scores kept the memory of these: 200 MiB at 4,096 tokens."""
    monkeypatch.setattr(torch_attention, "STRIPE", 16 * HEADS * TOKENS)  # 16 stripes
    module = case.spec.module(heads=HEADS, **case.numbers)
    query, key, _ = _inputs()
    value = torch.randn(1, HEADS, TOKENS, 8 * TOKENS)  # so that outputs are far larger than scores
    with torch.no_grad():
        most, kept = memory_use(
            lambda: torch_attention.attend_by_stripes(module, query, key, value, None, None, 0.0, False, 1.0)
        )
    assert kept == value.nbytes
    assert most < 1.5 * kept


@pytest.mark.parametrize("spec", [softmaxkit.Exact(), softmaxkit.Softermax()], ids=lambda spec: spec.method)
def test_a_bias_of_all_scores_is_copied_twice(spec: softmaxkit.Spec) -> None:
    """Once without what it masks, and once for torch, to whose kernel a mask and a bias are one."""
    inputs, bias = _inputs(), torch.randn(1, 1, 4 * TOKENS, 4 * TOKENS)
    inputs = [x.repeat(1, 1, 4, 1) for x in inputs]
    with torch.no_grad():
        most, _ = memory_use(lambda: softmaxkit.attention(*inputs, spec, bias))
    assert most < 2.75 * bias.nbytes


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
@pytest.mark.parametrize("mask", [None, *MASKS.values()], ids=["none", *MASKS])
def test_gradients_keep_no_scores_beyond_a_number_of_them(
    case: Case, mask: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = case.spec.module(heads=HEADS, **case.numbers)

    monkeypatch.setattr(recomputed, "STRIPE", HEADS * TOKENS * TOKENS // 4 // torch.get_num_threads())

    def gradients(most: int) -> tuple[int, list[Tensor]]:
        monkeypatch.setattr(torch_attention, "KEPT", most)
        kept: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            memory = x.untyped_storage()
            kept[memory.data_ptr()] = memory.nbytes() // x.element_size()
            return x

        inputs = [x.requires_grad_() for x in _inputs()]
        boolean = mask if mask is None or mask.dtype == torch.bool else None
        bias = None if boolean is not None or mask is None else mask.clone().requires_grad_()
        arguments = (*inputs, boolean, bias, 0.0, False, CHANNELS**-0.5)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            output = torch_attention.attend_by_stripes(module, *arguments)
        if bias is not None:
            kept.pop(bias.untyped_storage().data_ptr(), None)
        learned = inputs if bias is None else [*inputs, bias]
        return sum(kept.values()), list(torch.autograd.grad(output.square().sum(), learned))

    scores = HEADS * TOKENS * TOKENS
    whole, expected = gradients(scores)
    kept, actual = gradients(scores - 1)
    assert kept < scores <= whole
    for gradient, other in zip(actual, expected, strict=True):
        # The products of stripes sum in another order.
        assert torch.linalg.vector_norm(gradient - other) <= 1e-5 * torch.linalg.vector_norm(other) + 1e-12
