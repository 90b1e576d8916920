"""Which layers run fused, why the others do not, and one warning if "fused" falls back to float."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.kernels.backends import backend_name, softmax_products
from softmaxkit.models import fused_layers

TOKENS = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))
MANY = TOKENS.repeat(1, 2)
FIRST = "transformer.h.0.attn"
NATIVE = backend_name() != "torch"
BY_TORCH = (
    "it multiplies float32 in"
    if softmax_products(torch.float32)
    else "torch's scaled_dot_product_attention is this method"
)
"""Why no kernel runs softmax of many queries in float32: if there is one, it is less precise."""


def reasons(choice: Any) -> str:
    return "; ".join(reason for listed in choice.refusals.values() for reason in listed)


def test_every_layer_is_reported() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Exaq(bits=2), mode="fused", clip=-4.0)
    softmaxkit.apply(model, Softermax(), layers=[1], mode="fused")
    choices = fused_layers(model, MANY)
    assert list(choices) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    assert choices["transformer.h.0.attn"].native == NATIVE
    assert BY_TORCH in reasons(choices["transformer.h.1.attn"])
    softmaxkit.set_mode(model, "integer")
    assert "the integers of the hardware are computed row by row" in reasons(fused_layers(model)[FIRST])
    softmaxkit.set_mode(model, "float")
    assert 'its mode is "float"' in reasons(fused_layers(model)[FIRST])


def test_the_report_depends_on_the_inputs() -> None:
    model = softmaxkit.apply(tiny_model("llama"), ConSmax(), mode="fused")
    choices = fused_layers(model, {"input_ids": TOKENS, "output_attentions": True})
    assert all("output_attentions needs the probabilities" in reasons(choice) for choice in choices.values())
    choices = fused_layers(model, {"input_ids": TOKENS})
    assert all(choice.native == NATIVE for choice in choices.values())
    choices = fused_layers(model.double(), {"input_ids": TOKENS})
    assert not any(choice.native for choice in choices.values())


def test_the_report_needs_a_method() -> None:
    with pytest.raises(ValueError, match=r"softmaxkit\.apply\(model, spec\)"):
        fused_layers(tiny_model("gpt2"))


@pytest.mark.parametrize("spec", [Exact(), ConSmax()], ids=["exact", "consmax"])
def test_fused_that_falls_back_to_float_warns_once(spec: Any) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), spec)
    softmaxkit.set_mode(model, "fused")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model(TOKENS)
    messages = [str(warning.message) for warning in caught if "fused" in str(warning.message)]
    assert len(messages) == 1
    assert f"runs {spec.title} in float here: gradients are enabled" in messages[0]
    softmaxkit.set_mode(model, "fused")  # setting the mode again repeats the warning
    with pytest.warns(UserWarning, match="in float here"):
        model(TOKENS)


@pytest.mark.parametrize("spec", [Exact(), Softermax()], ids=["exact", "softermax"])
@torch.no_grad()
def test_softmax_generates_from_codes_and_reads_prompts_by_torch(spec: Any) -> None:
    model = softmaxkit.apply(tiny_model("llama"), spec)
    plain = model(MANY).logits
    softmaxkit.set_mode(model, "fused")
    cache = softmaxkit.QuantisedCache(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = model(MANY[:, :-1], cache=cache).logits
        choices = fused_layers(model, {"input_ids": MANY[:, -1:], "cache": deepcopy(cache)})
        token = model(MANY[:, -1:], cache=cache).logits
    assert all(choice.native == NATIVE for choice in choices.values())
    assert all(BY_TORCH in reasons(choice) for choice in fused_layers(model, MANY).values())
    assert (prompt - plain[:, :-1]).abs().max() <= 1e-5 * plain.abs().max()
    error, size = (x.square().mean().sqrt() for x in (token - plain[:, -1:], plain))
    assert 0 < error <= 0.02 * size  # keys and values in 8 bits


def test_gradient_checkpointing_computes_both_passes_in_float() -> None:
    """Its first pass has no gradients, and used to run in 8 bits, unlike the second."""
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = softmaxkit.apply(tiny_model("llama"), Exaq(bits=2), mode="fused", clip=-4.0).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": True})
            model.enable_input_require_grads()
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    # The kernel of rows and torch round float32 differently, at most a few units of 2**-24 each; 8 bits are 4% off.
    assert torch.allclose(*losses, rtol=1e-5)
    assert (gradients[1] - gradients[0]).abs().max() <= 1e-4 * gradients[0].abs().max()


@pytest.mark.skipif(not NATIVE, reason="no native kernels here")
def test_fused_that_runs_in_a_kernel_does_not_warn() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax(), mode="fused")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model(TOKENS)
        softmaxkit.calibrate(model, [TOKENS])  # which needs the scores
