"""Layers that train on a CPU with long rows: gradients compute scores again, and are those of the plain path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Index, Sigmoid, Softermax, Spec
from softmaxkit.fused_attention import recomputed
from softmaxkit.models import trained_path

TOKENS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(0))
PADDING = torch.ones_like(TOKENS)
PADDING[0, :5] = 0
SPECS: list[Spec] = [
    Exact(),
    ConSmax(),
    Softermax(),
    Exaq(bits=2),
    Exaq(share="head"),
    Index(),
    Index(bits=8),
    Sigmoid(),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every layer compute scores again, in several stripes, and return what computed them."""
    names: list[str] = []

    def watch(name: str) -> None:
        plain = getattr(trained_path, name)
        monkeypatch.setattr(trained_path, name, lambda *given, **how: (names.append(name), plain(*given, **how))[1])

    watch("attend_by_stripes")
    watch("scaled_dot_product")
    monkeypatch.setattr(trained_path, "KEPT", 0)
    monkeypatch.setattr(recomputed, "STRIPE", 200)
    monkeypatch.setattr(recomputed, "LEAST_ROWS", 1)
    return names


def model_with(spec: Spec, kind: str, mode: str = "float") -> Any:
    model = softmaxkit.apply(tiny_model(kind), spec)
    if isinstance(spec, Exaq):
        softmaxkit.calibrate(model, [TOKENS])
    softmaxkit.set_mode(model, mode)
    return model.eval()


def gradients(model: Any, **how: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(TOKENS, **how).logits
    logits[:, 5:].square().mean().backward()
    return logits.detach(), {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_gradients_are_those_of_the_plain_path(
    spec: Spec, kind: str, mode: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with(spec, kind, mode)
    logits, actual = gradients(model, attention_mask=PADDING)
    is_torchs = mode == "float" and spec in (Exact(), Softermax())
    assert calls == ["scaled_dot_product" if is_torchs else "attend_by_stripes"] * 2
    monkeypatch.setattr(trained_path, "KEPT", 1 << 30)
    plain, expected = gradients(model, attention_mask=PADDING)
    assert len(calls) == 2
    torch.testing.assert_close(logits[:, 5:], plain[:, 5:], rtol=1e-4, atol=1e-4 * plain.abs().max().item())
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-8 + 1e-4 * largest)
    assert any("softmaxkit" in name for name in actual) == (spec in (ConSmax(), Sigmoid()))


def test_biases_of_positions_are_trained(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    t5 = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    model = softmaxkit.apply(t5, ConSmax()).eval()
    how = {"decoder_input_ids": TOKENS}
    _, actual = gradients(model, **how)
    assert calls
    monkeypatch.setattr(trained_path, "KEPT", 1 << 30)
    _, expected = gradients(model, **how)
    biases = [name for name in actual if "relative_attention_bias" in name]
    assert biases
    for name in biases:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-6)


def test_what_needs_scores_or_other_dtypes_takes_the_plain_path(calls: list[str]) -> None:
    model = model_with(ConSmax(), "llama")
    assert model(TOKENS, output_attentions=True).attentions[0] is not None
    with torch.autocast("cpu", torch.bfloat16):
        model(TOKENS)
    with torch.no_grad():
        model(TOKENS)
    hook = next(iter(softmaxkit.layers(model).values())).register_forward_hook(lambda *given: None)
    model(TOKENS)
    assert calls == ["attend_by_stripes"]  # of the other layer
    hook.remove()
    softmaxkit.calibrate(model, [TOKENS])
    model.bfloat16()(TOKENS)
    assert calls == ["attend_by_stripes"]


def test_training_with_dropout_and_checkpoints(calls: list[str]) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax()).train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(1)
        results.append(gradients(model)[1])
    assert calls
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-7)
