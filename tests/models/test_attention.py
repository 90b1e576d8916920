"""Methods in Hugging Face models: equal logits with exact softmax, in all uses of a model."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel

import softmaxkit
from conftest import tiny_model
from softmaxkit import UQ, ConSmax, Exact, Exaq, Softermax
from softmaxkit.kernels.backends import backend_name
from softmaxkit.models.attention import NAME, UnsupportedError, attention_forward, boolean_mask
from softmaxkit.models.patch import layers

KINDS = ["gpt2", "bert", "llama"]


def batch(padding: str) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 100, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    if padding == "left":
        mask[0, :5] = 0
    elif padding == "right":
        mask[0, -5:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_exact_gives_the_logits_of_eager_attention(kind: str, padding: str) -> None:
    model, inputs = tiny_model(kind), batch(padding)
    before = model(**inputs).logits
    softmaxkit.apply(model, Exact())
    after = model(**inputs).logits
    attended = inputs["attention_mask"].bool()
    assert (after - before)[attended].abs().max() <= 1e-5 * before.abs().max()
    softmaxkit.restore(model)
    assert torch.equal(model(**inputs).logits, before)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_dropped_mask_is_detected(kind: str) -> None:
    model, inputs = tiny_model(kind), batch("right")
    masked = model(**inputs).logits
    unmasked = model(inputs["input_ids"]).logits
    attended = inputs["attention_mask"].bool() if kind == "bert" else ~inputs["attention_mask"].bool()
    assert (masked - unmasked)[attended].abs().max() > 1e-3 * masked.abs().max()


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("cache", [True, False])
@torch.no_grad()
def test_generate_gives_the_same_tokens(kind: str, side: str, cache: bool) -> None:
    model, inputs = tiny_model(kind), batch(side)
    options: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False, "use_cache": cache, "pad_token_id": 0}
    before = model.generate(**inputs, **options)
    after = softmaxkit.apply(model, Exact()).generate(**inputs, **options)
    assert torch.equal(before, after)


@torch.no_grad()
def test_the_cache_changes_nothing_for_methods_in_integers() -> None:
    model = softmaxkit.apply(tiny_model("llama"), Exaq(bits=3), mode="integer", clip=-6.0)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    inputs = batch("left")
    assert torch.equal(model.generate(**inputs, **options), model.generate(**inputs, **options, use_cache=False))


@torch.no_grad()
def test_output_attentions_are_the_methods_probabilities() -> None:
    model, inputs = tiny_model("gpt2"), batch("left")
    eager = model(**inputs, output_attentions=True).attentions
    softmaxkit.apply(model, Exact())
    ours = model(**inputs, output_attentions=True).attentions
    assert ours[0].shape == (3, 4, 12, 12)
    rows = inputs["attention_mask"].bool()
    for one, other in zip(eager, ours, strict=True):
        assert torch.allclose(one.transpose(1, 2)[rows], other.transpose(1, 2)[rows], atol=1e-6)
    softmaxkit.apply(model, Softermax(), mode="integer")
    codes = model(**inputs, output_attentions=True).attentions[0] * 128
    assert torch.equal(codes, codes.round())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@torch.no_grad()
def test_fused_attention_is_close_to_float_and_falls_back_for_gradients(kind: str, padding: str) -> None:
    model, inputs = tiny_model(kind), batch(padding)
    attended = inputs["attention_mask"].bool()
    for spec, numbers in ((Exaq(bits=4), {"clip": -4.0}), (ConSmax(), {}), (Exact(), {}), (Softermax(), {})):
        softmaxkit.apply(model, spec, **numbers)
        plain = model(**inputs)
        softmaxkit.set_mode(model, "fused")
        fused = model(**inputs).logits
        # Rounding queries and keys to 8 bits moves some scores to a neighbouring level; with 4 bits, levels are close.
        error, size = (logits[attended].square().mean().sqrt() for logits in (fused - plain.logits, plain.logits))
        assert error <= 0.05 * size
        close = 1e-5 * plain.logits.abs().max()
        if spec.method in ("exact", "softermax"):  # by torch's own attention
            assert (fused - plain.logits).abs().max() <= close
        else:
            assert torch.equal(fused, plain.logits) != (backend_name() != "torch")
        with torch.enable_grad():
            assert (model(**inputs).logits - plain.logits).abs().max() <= close
        softmaxkit.restore(model)


def test_half_precision_models_may_round_differently_in_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models amplify the rounding of bfloat16; eager attention rounds as softmaxkit's function does."""
    model = tiny_model("llama").to(torch.bfloat16)
    sdpa = AttentionInterface._global_mapping["sdpa"]

    def rounded(*given: Any, **kwargs: Any) -> Any:
        output, weights = sdpa(*given, **kwargs)
        return output * 1.5, weights

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", rounded)
    model.set_attn_implementation("sdpa")
    assert len(layers(softmaxkit.apply(model, Exact()))) == 2
    softmaxkit.restore(model)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(
        UnsupportedError, match="returns other outputs with exact softmax through transformers' AttentionInterface"
    ):
        softmaxkit.apply(model.to(torch.float32), Exact())


def test_additive_masks_of_any_magnitude_mask() -> None:
    query = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = attention_forward(nn.Linear(1, 1), query, query, query, torch.ones(3, 3, dtype=torch.bool).tril())[1]
    for low in (torch.finfo(torch.float32).min, -1e4, -math.inf):
        mask = torch.full((3, 3), low).triu(1)
        assert torch.allclose(attention_forward(nn.Linear(1, 1), query, query, query, mask)[1], expected)


def test_nan_in_an_additive_mask_reaches_the_result() -> None:
    query, mask = torch.randn(1, 2, 3, 4), torch.zeros(3, 3)
    mask[1, 2] = torch.nan
    weights = attention_forward(nn.Linear(1, 1), query, query, query, mask)[1]
    assert weights is not None
    assert weights.isnan().any(-1).squeeze(0).tolist() == [[False, True, False]] * 2


@torch.no_grad()
def test_half_precision_models_get_the_hardware_integers() -> None:
    model = softmaxkit.apply(tiny_model("llama").bfloat16(), Exaq(bits=3), mode="integer", clip=-6.0)
    weights = model(**batch("none"), output_attentions=True).attentions[0]
    codes = weights * 2**15
    assert torch.equal(codes, codes.round())
    assert (codes > 2**8).any()


@torch.no_grad()
def test_autocast_does_not_round_the_hardware_integers() -> None:
    model = softmaxkit.apply(tiny_model("llama"), Softermax(output=UQ(1, 15)), mode="integer")
    layer = model.model.layers[0].self_attn
    query, key, value = (torch.randn(1, heads, 6, 8).bfloat16() for heads in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        outputs, weights = attention_forward(layer, query, key, value, None, is_causal=True)
    expected = weights @ value.float().repeat_interleave(2, dim=1)
    assert torch.equal(outputs, expected.bfloat16().transpose(1, 2))


def test_dropout_applies_to_the_probabilities() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=100,
            n_positions=64,
            n_embd=32,
            n_layer=1,
            n_head=4,
            attn_pdrop=0.5,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
        )
    ).train()
    tokens = batch("none")["input_ids"]
    results = []
    for name in ("eager", NAME):
        model.set_attn_implementation(name)
        torch.manual_seed(1)
        results.append(model(tokens).logits)
    assert torch.allclose(*results, atol=1e-5)
    assert not torch.allclose(results[0], model(tokens).logits, atol=1e-3)


def test_learned_parameters_train_with_the_model() -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), ConSmax())
    module = layers(model)["transformer.h.0.attn"]
    names = [name for name, _ in model.named_parameters() if NAME in name]
    assert names == [f"transformer.h.{i}.attn.{NAME}.{key}" for i in (0, 1) for key in ("beta", "log_gamma")]
    start = ConSmax().start(64)["gamma"]  # from the model's 64 positions
    assert torch.allclose(module.gamma, torch.full((4,), start))  # type: ignore[arg-type]
    tokens = batch("none")["input_ids"]
    model(tokens, labels=tokens).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for name, parameter in model.named_parameters()
        if NAME in name
    )


@pytest.mark.parametrize("kind", ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "bert"))])
@torch.no_grad()
def test_compiled_models_give_the_same_logits(kind: str) -> None:
    model = softmaxkit.apply(tiny_model(kind, layers=1), Softermax())
    inputs = batch("left")
    plain = model(**inputs).logits
    compiled = torch.compile(model, backend="eager")(**inputs).logits
    attended = inputs["attention_mask"].bool()
    assert torch.allclose(plain[attended], compiled[attended], atol=1e-4)


@torch.no_grad()
def test_half_precision_models() -> None:
    model, inputs = tiny_model("llama").bfloat16(), batch("none")
    before = model(**inputs).logits
    after = softmaxkit.apply(model, Exact())(**inputs).logits
    assert after.dtype == torch.bfloat16
    assert torch.allclose(before.float(), after.float(), rtol=0.05, atol=0.05 * before.abs().max().item())


def test_a_model_in_another_thread_runs_its_method_during_a_calibration() -> None:
    calibrated = softmaxkit.apply(tiny_model("gpt2"), Exaq())
    other = softmaxkit.apply(tiny_model("llama"), ConSmax())
    tokens = torch.arange(12)[None]
    expected, results = other(tokens).logits, []
    layer = next(iter(layers(calibrated)))

    def meanwhile(*_: Any) -> None:
        thread = threading.Thread(target=lambda: results.append(other(tokens).logits))
        thread.start()
        thread.join()

    calibrated.get_submodule(layer).register_forward_hook(meanwhile)
    softmaxkit.calibrate(calibrated, [tokens])
    softmaxkit.apply(calibrated, Softermax())  # runs exact softmax
    softmaxkit.fused_layers(calibrated, {"input_ids": tokens})
    assert len(results) == 3
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("compiling", [False, True])
def test_a_causal_layer_gets_no_mask_without_further_masking(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    assert boolean_mask(1, 5, 5) is None
    assert boolean_mask(1, 5, 5, allow_is_causal_skip=False) is not None
    assert boolean_mask(1, 3, 5, q_offset=2) is not None
    assert boolean_mask(1, 5, 5, local_size=2) is not None
    padded = torch.tensor([[False, True, True, True, True]])
    assert boolean_mask(1, 5, 5, attention_mask=padded) is not None


@pytest.mark.parametrize(("given", "own", "expected"), [(None, True, True), (None, False, False), (False, True, False)])
def test_causality_defaults_to_that_of_the_layer(given: bool | None, own: bool, expected: bool) -> None:
    query = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(1, 1)
    layer.is_causal = own  # type: ignore[assignment]
    weights = attention_forward(layer, query, query, query, None, is_causal=given)[1]
    assert weights is not None
    assert bool((weights.triu(1) == 0).all()) == expected
