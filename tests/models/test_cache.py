"""The cache of 8 or 4 bits in `generate`: as a cache of rounded tensors, whoever reads it, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, EncoderDecoderCache, ParakeetCTCConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

import softmaxkit
from models.architectures import make
from softmaxkit import ConSmax, Exaq, KeyValueCache, QuantisedCache, Softermax, Spec
from softmaxkit.kernels.backends import backend_name
from softmaxkit.kernels.codes import BITS, Cached
from softmaxkit.kernels.encode import encode
from softmaxkit.kernels.frame import frame
from softmaxkit.models.cache import CachedTensor, QuantisedLayer

METHODS: list[tuple[Spec, dict[str, Any]]] = [(Exaq(bits=3), {"clip": -5.0}), (ConSmax(), {}), (Softermax(), {})]
TOKENS = torch.randint(3, 100, (3, 20), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 20, dtype=torch.long)
MASK[0, :7], MASK[1, :1] = 0, 0  # padding on the left
PROMPT = {"input_ids": TOKENS, "attention_mask": MASK, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
NATIVE = backend_name() != "torch"


class RoundedLayer(DynamicLayer):
    """Plain tensors of what 8 bits make of keys and values, but for the attention over the first prompt."""

    factor: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        first = self.get_seq_length() == 0
        if first:
            _, self.factor = frame(key_states, 8)
        keys, values = encode(key_states, 8, None, self.factor), encode(value_states, 8)
        every = super().update(keys.decoded(key_states.dtype), values.decoded(value_states.dtype))
        return (key_states, value_states) if first else every

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.factor = None if self.factor is None else self.factor[indices]


class DecodedLayer(QuantisedLayer):
    """The cache itself, read as plain tensors: of 4 bits, whose keys are set about the mean of the first."""

    def _show(self, cache: KeyValueCache) -> tuple[Tensor, Tensor]:
        self.keys, self.values = cache.keys, cache.values
        return self.keys, self.values


def rounded_cache(model: PreTrainedModel, bits: int = 8) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    made = RoundedLayer if bits == 8 else partial(DecodedLayer, bits)
    cache.layers = [made() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def with_method(name: str, spec: Spec, mode: str = "fused", **numbers: Any) -> PreTrainedModel:
    return softmaxkit.apply(make(name)[0], spec, mode=mode, **numbers)


def generated(model: PreTrainedModel, cache: Any, new: int = 8, **how: Any) -> tuple[Tensor, Tensor]:
    """Return tokens and their logits."""
    asked = {**PROMPT, "max_new_tokens": new, "output_logits": True, "return_dict_in_generate": True, **how}
    output = model.generate(cache=cache, **asked)
    return output.sequences, torch.stack(output.logits)


NEAR = {8: 5e-4, 4: 8e-3}
"""Of the largest logit. Queries that read codes have 16 bits, so scores err by 1e-4 at most, which layers amplify: in
the next, a code at the border of two may be the other, which is 16 times as far in 4 bits."""


def check_near(actual: Tensor, expected: Tensor, bits: int = 8) -> None:
    assert torch.allclose(actual, expected, atol=NEAR[bits] * expected.abs().max().item())


def check_equal(model: PreTrainedModel, cache: Any, reference: Any, bits: int = 8, **how: Any) -> None:
    """Compare with a reference that holds the same numbers."""
    tokens, logits = generated(model, cache, **how)
    expected, near = generated(model, reference, **how)
    assert torch.equal(tokens, expected)
    check_near(logits, near, bits)
    assert cache.get_seq_length() == reference.get_seq_length()


def every_model_with_every_method() -> Iterator[Any]:
    """Yield them; the fast tests have all methods in one model, and one method in all models."""
    names = ["LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM"]
    for name, (spec, numbers) in itertools.product(names, METHODS):
        marks = [] if name == names[0] or spec == METHODS[0][0] else pytest.mark.slow
        yield pytest.param(name, spec, numbers, id=f"{name}-{spec.method}", marks=marks)


@pytest.mark.parametrize(("name", "spec", "numbers"), every_model_with_every_method())
def test_it_is_a_cache_of_rounded_tensors(name: str, spec: Spec, numbers: dict[str, Any]) -> None:
    model = with_method(name, spec, **numbers)
    for mode in ("fused", "float", "integer"):
        softmaxkit.set_mode(model, mode)
        for bits in BITS if mode == "fused" else (8,):
            check_equal(model, QuantisedCache(model.config, bits), rounded_cache(model, bits), bits)
    softmaxkit.restore(model)
    for implementation in ("eager", "sdpa") if model._supports_sdpa else ("eager",):
        model.set_attn_implementation(implementation)
        check_equal(model, QuantisedCache(model.config), rounded_cache(model))


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "do_sample": True},
        {"input_ids": TOKENS[1:2], "attention_mask": MASK[1:2], "prompt_lookup_num_tokens": 3, "new": 20},
        {"num_return_sequences": 2, "do_sample": True},
    ],
    ids=["beams", "sampled beams", "prompt look-up", "several"],
)
@pytest.mark.parametrize(("spec", "numbers", "bits"), [(*METHODS[0], 8), (*METHODS[1], 4)], ids=str)
def test_ways_to_generate(how: dict[str, Any], spec: Spec, numbers: dict[str, Any], bits: int) -> None:
    model = with_method("LlamaForCausalLM", spec, **numbers)
    results = []
    for cache in (QuantisedCache(model.config, bits), rounded_cache(model, bits)):
        torch.manual_seed(0)
        results.append(generated(model, cache, **how))
    assert torch.equal(results[0][0], results[1][0])
    check_near(results[0][1], results[1][1], bits)


@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=str)
def test_a_second_turn_goes_on(spec: Spec, numbers: dict[str, Any]) -> None:
    model = with_method("LlamaForCausalLM", spec, **numbers)
    caches = QuantisedCache(model.config), rounded_cache(model)
    for more in (1, 3, 9):  # few queries for each key head, and many
        length = caches[0].get_seq_length()
        tokens = TOKENS.repeat(1, 2)[:, : length + more]
        check_equal(model, *caches, new=2, input_ids=tokens, attention_mask=torch.ones_like(tokens))


def test_one_prompt_for_several_answers() -> None:
    model = with_method("LlamaForCausalLM", ConSmax())
    prompts = QuantisedCache(model.config), rounded_cache(model)
    for cache in prompts:
        with torch.no_grad():
            model(TOKENS[:, :12], cache=cache)
    for _ in range(2):
        check_equal(model, *map(copy.deepcopy, prompts))
    assert prompts[0].get_seq_length() == 12
    check_equal(model, *prompts)


@pytest.mark.parametrize("bits", BITS)
def test_crop_reset_and_batches(bits: int) -> None:
    model = with_method("LlamaForCausalLM", ConSmax())
    caches = QuantisedCache(model.config, bits), rounded_cache(model, bits)
    rest = torch.arange(3, 6).repeat(4, 1)
    for cache in caches:
        with torch.no_grad():
            model(TOKENS, cache=cache)
            cache.crop(-5)
            cache.batch_select_indices(torch.tensor([2, 0]))
            cache.batch_repeat_interleave(2)
            assert cache.get_seq_length() == 15
    held = [(cache.layers[0].keys, cache.layers[1].values) for cache in caches]
    assert all(torch.equal(*pair) for pair in zip(*held, strict=True))
    with torch.no_grad():
        logits, expected = (model(rest, cache=cache).logits for cache in caches)
    check_near(logits, expected, bits)
    caches[0].crop(-100)
    assert caches[0].get_seq_length() == 0
    caches[0].reset()
    check_equal(model, caches[0], rounded_cache(model, bits), bits)
    with pytest.raises(ValueError, match="to keep n tokens"):
        caches[0].crop(5)


@pytest.mark.skipif(not NATIVE, reason="no native kernels here")
def test_generated_tokens_read_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_method("LlamaForCausalLM", Exaq(bits=2), clip=-4.0)

    def forbidden(self: Any, dtype: torch.dtype) -> Tensor:
        raise AssertionError("the cache was read in float")

    monkeypatch.setattr(Cached, "decoded", forbidden)
    generated(model, QuantisedCache(model.config))
    generated(model, QuantisedCache(model.config), num_beams=2)
    softmaxkit.set_mode(model, "float")
    with pytest.raises(AssertionError, match="read in float"):
        generated(model, QuantisedCache(model.config))


@torch.no_grad()
def test_a_second_prompt_decodes_the_cache_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_method("LlamaForCausalLM", Softermax())
    cache = QuantisedCache(model.config)
    model(TOKENS, cache=cache)
    decoded, read = [], Cached.decoded

    def counted(self: Cached, dtype: torch.dtype) -> Tensor:
        decoded.append(self)
        return read(self, dtype)

    monkeypatch.setattr(Cached, "decoded", counted)
    model(TOKENS, cache=cache)
    assert len(decoded) == 2 * len(cache.layers)  # keys and values


def test_without_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.kernels.backends.unavailable", lambda name: "this test asks for torch")
    model = with_method("LlamaForCausalLM", ConSmax())
    check_equal(model, QuantisedCache(model.config), rounded_cache(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    model = with_method("LlamaForCausalLM", ConSmax()).to(dtype)
    logits, expected = (
        generated(model, cache, new=2)[1] for cache in (QuantisedCache(model.config), rounded_cache(model))
    )
    assert logits.dtype == expected.dtype
    # The reference rounds what the codes stand for to the dtype once more: 2^-9 in bfloat16, for each of keys, scores,
    # weights and values, in 2 layers that amplify it.
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-6}[dtype]
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def test_under_autocast() -> None:
    model = with_method("LlamaForCausalLM", ConSmax())
    cache = QuantisedCache(model.config)
    with torch.autocast("cpu", torch.bfloat16):
        logits, expected = (generated(model, cache, new=3)[1] for cache in (cache, rounded_cache(model)))
    layer = cache.layers[0]
    assert (layer.keys.dtype, layer.values.dtype) == (torch.float32, torch.bfloat16)  # as rotated, and as projected
    assert (logits - expected).abs().max() <= 0.05 * expected.abs().max()  # as above


def test_memory() -> None:
    model = with_method("LlamaForCausalLM", ConSmax())
    plain = DynamicCache(config=model.config)
    channels = model.config.head_dim
    generated(model, plain)
    bytes_of_plain = sum(layer.keys.nbytes + layer.values.nbytes for layer in plain.layers)
    for bits, of_steps in ((8, 4), (4, 2 * -(-channels // 32))):  # of each token and head
        cache = QuantisedCache(model.config, bits)
        generated(model, cache)
        assert cache.nbytes / bytes_of_plain == (channels * bits / 8 + of_steps) / (4 * channels)


def test_encoder_and_decoder() -> None:
    model = with_method("BartForConditionalGeneration", ConSmax())
    caches = [
        EncoderDecoderCache(own, DynamicCache(config=model.config))
        for own in (QuantisedCache(model.config), rounded_cache(model))
    ]
    check_equal(model, *caches, num_beams=2)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_a_cache_without_one_for_cross_attention_is_refused(name: str, layers: int) -> None:
    whole = make(name)[0]
    whole.config.update({"decoder_layers": layers, "num_decoder_layers": layers})
    model = softmaxkit.apply(type(whole)(whole.config).eval(), Softermax())
    cache = QuantisedCache(model.config)
    with pytest.raises(ValueError, match=re.escape("EncoderDecoderCache(QuantisedCache(model.config), DynamicCache(")):
        generated(model, cache)
    cache.reset()
    generated(model, EncoderDecoderCache(cache, DynamicCache(config=model.config)))


@pytest.mark.parametrize("inference", [True, False])
def test_a_cached_tensor_reads_as_a_plain_one(inference: bool) -> None:
    random = torch.Generator().manual_seed(0)
    tokens, query = torch.randn(2, 2, 5, 8, generator=random), torch.randn(2, 4, 3, 8, generator=random)
    cache = KeyValueCache(tokens, tokens)
    with torch.inference_mode(inference):
        held, plain = CachedTensor(cache.codes[0], torch.float32), cache.keys
        assert (held.shape, held.dtype, held.device) == (plain.shape, plain.dtype, plain.device)
        assert torch.equal(held.repeat_interleave(2, 1).mT, plain.repeat_interleave(2, 1).mT)
        assert torch.equal(torch.cat([plain, held], 2), torch.cat([plain, plain], 2))
        result = scaled_dot_product_attention(query, held, held, enable_gqa=True)
        assert torch.allclose(result, scaled_dot_product_attention(query, plain, plain, enable_gqa=True))
        assert torch.equal(torch.zeros_like(plain).copy_(held), plain)
        with pytest.raises(TypeError, match="write to a clone"):
            held.add_(1)
        for write in (partial(torch.add, plain, plain, out=held), partial(torch._foreach_add_, [held], 1.0)):
            with pytest.raises(TypeError, match="write to a clone"):
                write()
    cache.append(tokens, tokens)
    assert torch.equal(held, plain)
    if not inference:
        query.requires_grad_()
        (query[:, :2] @ held.mT).sum().backward()
        assert query.grad is not None
        assert torch.allclose(query.grad[:, :2], plain.sum(2, keepdim=True).expand(2, 2, 3, 8))


def test_what_it_refuses() -> None:
    model = with_method("LlamaForCausalLM", ConSmax())
    with pytest.raises(TypeError, match=re.escape("model.config, got LlamaForCausalLM")):
        QuantisedCache(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"this parakeet_ctc has no decoder layers .*; give the configuration of the"):
        QuantisedCache(ParakeetCTCConfig())
    with pytest.raises(ValueError, match="no layer of this mistral attends to all tokens"):
        QuantisedCache(make("MistralForCausalLM")[0].config)
    with pytest.raises(ValueError, match=re.escape("run the model under torch.no_grad()")):
        model(TOKENS, cache=QuantisedCache(model.config))
    with pytest.raises(ValueError, match="bits must be 8 or 4, got 2"):
        QuantisedCache(model.config, bits=2)
    with pytest.raises(TypeError, match="supports models on CPU and CUDA, not on meta"):
        QuantisedLayer(8).update(*[torch.empty(1, 2, 3, 4, device="meta")] * 2)
