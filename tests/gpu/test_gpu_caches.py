"""Caches of codes on a GPU: kernels against float64 over the same codes, and models that generate over them."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_cases import Case
from cache_cases import KEY_HEADS, KINDS, METHODS, assert_close, expected, watched_kernels

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, KeyValueCache, QuantisedCache, Spec
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels.codes import BITS
from softmaxkit.kernels.encode import _by_torch

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[str]:
    return watched_kernels(monkeypatch)


def every_way_to_read() -> Iterator[Any]:
    """Yield them; the fast tests have each kernel with words and with bytes, by turns of 8 and of 4 bits."""
    sizes = {"words": (64, 32), "padded words": (24, 40), "bytes": (17, 33)}
    kernels = {"single": (2, 1), "grouped": (8, 1), "queries": (2, 3)}
    quick = {("words", "single", 8), ("words", "grouped", 4), ("words", "queries", 8)}
    quick |= {("bytes", "single", 4), ("bytes", "grouped", 8), ("bytes", "queries", 4)}
    for size, kernel, bits in itertools.product(sizes, kernels, BITS):
        marks = [] if (size, kernel, bits) in quick else pytest.mark.slow
        yield pytest.param(*sizes[size], *kernels[kernel], bits, id=f"{size}-{kernel}-{bits}", marks=marks)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("channels", "values", "heads", "queries", "bits"), every_way_to_read())
def test_codes_are_read(
    channels: int, values: int, heads: int, queries: int, bits: int, dtype: torch.dtype, device: torch.device,
    kernels: list[str],
) -> None:  # fmt: skip
    case = Case(batch=1, heads=heads, queries=queries, keys=100, channels=channels, values=values)
    query, key, value = (x.detach() for x in case.tensors(device, dtype))
    key = key + torch.randn(1, KEY_HEADS, 1, channels, generator=torch.Generator().manual_seed(5)).to(key)
    key[..., 3] *= 40.0  # a channel with a factor
    query[..., 3] /= 40.0
    cache = KeyValueCache(key[:, :, :70], value[:, :, :70], bits)
    cache.append(key[:, :, 70:], value[:, :, 70:])
    assert cache.codes[0].factor is not None
    mask = torch.rand(1, 1, queries, 100, generator=torch.Generator().manual_seed(3)).to(device) < 0.7
    for spec, numbers in METHODS:
        for seen in (None, mask) if dtype == torch.float32 and (spec, numbers) in KINDS else (mask,):
            kernels.clear()
            result = cache.attention(query, spec, seen, **numbers)
            assert kernels == ["decode_single" if heads * queries == KEY_HEADS else "decode_split"]
            moves = isinstance(spec, Exaq) and kernels == ["decode_split"] and (bits, dtype) == (4, torch.bfloat16)
            assert_close(result, expected(query, cache.codes, spec, numbers, seen), dtype, moves)


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_lengths_and_wrong_ones(bits: int, device: torch.device) -> None:
    case = Case(batch=4, queries=1, keys=70, channels=32, values=32)
    query, key, value = (x.detach() for x in case.tensors(device))
    cache = KeyValueCache(key, value, bits)
    lengths = torch.tensor([70, 0, 37, 1], device=device)
    mask = (torch.arange(70, device=device) < lengths[:, None])[:, None, None]
    for spec, numbers in KINDS:
        exact = expected(query, cache.codes, spec, numbers, mask)
        assert_close(cache.attention(query, spec, lengths=lengths, **numbers), exact, torch.float32)
        wrong = cache.attention(query, spec, lengths=torch.tensor([70, -1, 37, 71], device=device), **numbers)
        assert wrong[[1, 3]].isnan().all()
        torch.testing.assert_close(wrong[[0, 2]].double(), exact[[0, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [2, 4])
def test_small_weights_in_float16_are_kept(heads: int, device: torch.device) -> None:
    case = Case(batch=1, heads=heads, queries=1, keys=200, channels=32, values=32)
    query, key, value = (x.detach() for x in case.tensors(device, torch.float16))
    for bits in BITS:
        cache = KeyValueCache(key, value, bits)
        spec, numbers = ConSmax(), {"beta": 12.0, "gamma": 1.0}  # weights of 1e-5, times steps of 1e-2
        result = cache.attention(query, spec, **numbers)
        assert_close(result, expected(query, cache.codes, spec, numbers, None), torch.float16)


@pytest.mark.parametrize(
    ("heads", "queries", "bits"),
    [
        (2, 1, 8),
        (8, 1, 4),
        (2, 3, 8),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1, 4), (8, 1, 8), (2, 3, 4))),
    ],
)
def test_a_token_that_is_nan_reaches_who_attends_to_it(
    bits: int, heads: int, queries: int, device: torch.device
) -> None:
    case = Case(heads=heads, queries=queries, keys=80, channels=32, values=32)
    query, key, value = (x.detach() for x in case.tensors(device))
    cache = KeyValueCache(key, value, bits)
    cache.codes[1].steps[..., 7] = torch.nan
    mask = torch.ones((queries, 80), dtype=torch.bool, device=device)
    for hidden in (slice(None), slice(0, 1)):
        mask[:] = True
        mask[hidden, 7] = False
        for spec, numbers in KINDS:
            result = cache.attention(query, spec, mask, **numbers)
            assert torch.equal(result.isnan().all(-1), mask[:, 7].expand(result.shape[:3]))
            assert torch.equal(result.isnan().any(-1), mask[:, 7].expand(result.shape[:3]))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_has_a_step_of_nan(bits: int, dtype: torch.dtype) -> None:
    tokens = torch.randn(1, 2, 6, 40).to(dtype)
    plain = _by_torch(tokens, bits, None, None)
    tokens[0, 0, 1, 3], tokens[0, 1, 2, 35], tokens[0, 0, 4] = math.nan, math.inf, -math.inf
    marked = _by_torch(tokens, bits, None, None)
    wrong = torch.zeros(1, 2, 6, dtype=torch.bool)
    wrong[0, 0, 1] = wrong[0, 1, 2] = wrong[0, 0, 4] = True
    assert torch.equal(marked.steps.isnan().any(2), wrong)
    assert torch.equal(marked.codes[~wrong], plain.codes[~wrong])
    assert torch.equal(marked.decoded(torch.float32).isnan().any(-1), wrong)


def every_model_with_every_method() -> Iterator[Any]:
    """Yield them; the fast tests have each method in one kind of model, and both widths of codes."""
    quick = {("llama", "exact", 8), ("llama", "exaq", 4), ("llama", "consmax", 8)}
    for kind, spec, bits in itertools.product(("gpt2", "llama"), (Exact(), Exaq(bits=3), ConSmax()), BITS):
        name = (kind, spec.method, bits)
        yield pytest.param(
            kind, spec, bits, id="-".join(map(str, name)), marks=[] if name in quick else pytest.mark.slow
        )


@pytest.mark.parametrize(("kind", "spec", "bits"), every_model_with_every_method())
def test_models_generate_over_the_codes(
    spec: Spec, kind: str, bits: int, device: torch.device, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"clip": -6.0} if isinstance(spec, Exaq) else {}
    model = softmaxkit.apply(tiny_model(kind).to(device), spec, **numbers)
    tokens = (torch.arange(24).reshape(2, 12) * 7 % 100).to(device)
    padding = torch.ones(2, 12, dtype=torch.long, device=device)
    padding[0, :3] = 0
    logits = []
    for way in ("kernels", "torch"):
        if way == "torch":
            monkeypatch.setenv(builds.VARIABLE, "none")
            backends.reset()
        cache = QuantisedCache(model.config, bits)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(tokens[:, :10], attention_mask=padding[:, :10], past_key_values=cache)
            kernels.clear()  # the prompt itself is read as it comes
            cache.batch_select_indices(torch.tensor([1, 0]))  # on the CPU, as callers have it
            steps = [
                model(
                    tokens.flip(0)[:, at : at + 1], attention_mask=padding.flip(0)[:, : at + 1], past_key_values=cache
                ).logits
                for at in (10, 11)
            ]
        single = "decode_single" if kind == "gpt2" else "decode_split"
        assert kernels == ([single] * 4 if way == "kernels" else [])
        logits.append(torch.cat(steps))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-3 * logits[1].abs().max().item())


def test_dropout_and_gradients_go_past_kernels_over_codes(device: torch.device) -> None:
    from softmaxkit.fused_attention.choice import choose

    query, key, _ = (x.detach() for x in Case(queries=1, keys=20).tensors(device))
    module = Exaq().module(clip=-4.0)
    codes = KeyValueCache(key, key).codes
    assert choose(module, query, *codes)[1].backend == "triton"
    for case, reason in ((query, "dropout"), (query.clone().requires_grad_(), "has no gradient")):
        choice = choose(module, case, *codes, dropout_p=0.0 if case.requires_grad else 0.1)[1]
        assert any(reason in text for text in choice.refusals["triton"])
