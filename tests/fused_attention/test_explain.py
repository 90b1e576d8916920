"""The choice of a back end: which runs, and every reason why another does not."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.fused_attention.choice import LARGEST_SCALE, choose
from softmaxkit.kernels import backends, builds, launch

NATIVE = backends.backend_name()
ROWS = torch.zeros(2, 9)
QUERY = torch.randn(1, 2, 20, 16, generator=torch.Generator().manual_seed(0))


def reasons(choice: backends.Choice) -> str:
    assert choice.backend == "torch"
    assert set(choice.refusals) == set(builds.NATIVE)
    return " ".join(reason for of_backend in choice.refusals.values() for reason in of_backend)


@pytest.mark.skipif(NATIVE != "avx512", reason="no AVX-512 kernels here")
def test_the_best_build_runs() -> None:
    choice = softmaxkit.explain(Exact(), ROWS)
    assert (choice.backend, set(choice.refusals)) == ("avx512", {"amx"})
    assert softmaxkit.explain(Exaq(), QUERY, QUERY, QUERY, clip=-4.0).backend == "avx512"
    assert softmaxkit.explain(Softermax(), ROWS, mode="integer").backend == "avx512"


@pytest.mark.skipif(NATIVE == "torch", reason="no native kernels here")
def test_reasons_of_the_call() -> None:
    assert "float64" in reasons(softmaxkit.explain(ConSmax(), ROWS.double(), beta=1.0, gamma=1.0))
    learned = QUERY.clone().requires_grad_()
    assert "no gradient" in reasons(softmaxkit.explain(Exaq(), learned, learned, learned, clip=-4.0))
    blended = ConSmax().module()
    blended.set_homotopy(0.5)
    assert "no kernel for this form" in reasons(blended.choose(ROWS)[1])
    assert "meta" in reasons(softmaxkit.explain(ConSmax(), ROWS.to("meta"), beta=1.0, gamma=1.0))
    wide = torch.zeros(1, 1, 2, 2**15)
    assert "channels" in reasons(softmaxkit.explain(Exaq(), wide, wide, wide, clip=-4.0))
    by_torch = "multiplies float32 in" if backends.softmax_products(torch.float32) else "scaled_dot_product_attention"
    assert by_torch in reasons(softmaxkit.explain(Softermax(), QUERY, QUERY, QUERY))
    assert "row by row" in reasons(softmaxkit.explain(Exaq(), QUERY, QUERY, QUERY, mode="integer", clip=-4.0))


@pytest.mark.skipif(NATIVE == "torch", reason="no native kernels here")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_scale_is_too_coarse_in_8_bits(sign: int) -> None:
    module = Exaq().module(heads=2, clip=-4.0)
    border = LARGEST_SCALE / 4  # of 16 channels
    assert border == 2.0
    assert choose(module, QUERY, QUERY, QUERY, scale=sign * border)[1].native
    refused = choose(module, QUERY, QUERY, QUERY, scale=sign * 1.001 * border)[1]
    assert "exceeds 8 / sqrt(channels), too coarse in 8 bits" in reasons(refused)


def decoding(dtype: torch.dtype, keys: int, key_heads: int = 8) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(keys)
    sizes = (8, 1), (key_heads, keys), (key_heads, keys)
    return [torch.randn(1, *size, 64, generator=random).to(dtype) for size in sizes]


@pytest.mark.skipif(NATIVE == "torch", reason="no native kernels here")
@pytest.mark.parametrize(
    ("dtype", "key_heads", "keys"),
    [(torch.float16, 8, 512), (torch.bfloat16, 8, 1024), (torch.float32, 2, 4096), (torch.float32, 8, 4096)],
    ids=["float16", "bfloat16", "shared", "float32"],
)
def test_softmax_of_a_few_queries_runs_natively_over_many_keys(dtype: torch.dtype, key_heads: int, keys: int) -> None:
    for spec, base in ((Exact(), math.e), (Softermax(), 2.0)):
        few, many = decoding(dtype, keys - 1, key_heads), decoding(dtype, keys, key_heads)
        assert "torch's own attention is faster until" in reasons(softmaxkit.explain(spec, *few, enable_gqa=True))
        assert softmaxkit.explain(spec, *many, enable_gqa=True).backend == NATIVE
        for operands in (few, many):
            query, key, value = (x.double() for x in operands)
            exact = scaled_dot_product_attention(query, key, value, scale=math.log(base) / 8, enable_gqa=True)
            result = softmaxkit.attention(*operands, spec, enable_gqa=True)
            torch.testing.assert_close(result, exact.to(dtype), rtol=2.0**-7, atol=2.0**-9)
        learned = many[0].clone().requires_grad_()
        assert softmaxkit.explain(spec, learned, *many[1:], enable_gqa=True).backend == "torch"


@pytest.mark.skipif(NATIVE == "torch", reason="no native kernels here")
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_torch_multiplies_several_queries_in_16_bits(dtype: torch.dtype) -> None:
    query, *tokens = decoding(dtype, 4096)
    assert softmaxkit.explain(Exact(), query.expand(-1, -1, 3, -1), *tokens).native
    several = softmaxkit.explain(Exact(), query.expand(-1, -1, 4, -1), *tokens)
    assert several.native == (dtype == torch.float32)
    if not several.native:
        assert "for more than 3 queries per head in 16 bits, torch's own attention is as fast" in reasons(several)


def test_it_refuses_what_attention_refuses() -> None:
    shared = decoding(torch.float32, 40, key_heads=2)
    for run in (lambda: softmaxkit.explain(Exact(), *shared), lambda: softmaxkit.attention(*shared, Exact())):
        with pytest.raises(ValueError, match="8 query heads and 2 key heads require enable_gqa=True"):
            run()
    with pytest.raises(TypeError, match="scale and enable_gqa are those of attention"):
        softmaxkit.explain(Exact(), ROWS, enable_gqa=True)


@pytest.mark.parametrize("asked", ["none", "torch"])
def test_the_environment_asks_for_torch(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, asked)
    backends.reset()
    assert f"{builds.VARIABLE}={asked} selects torch" in reasons(softmaxkit.explain(Exact(), ROWS))


@pytest.mark.parametrize("build", builds.supported())
def test_rows_run_in_the_selected_build(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, build)
    backends.reset()
    choice = softmaxkit.explain(Exact(), ROWS)
    assert choice.backend == build
    assert all("selects another" in choice.refusals[name][0] for name in choice.refusals if name in builds.supported())
    assert softmaxkit.explain(ConSmax(), ROWS, beta=1.0, gamma=1.0).backend == build
    assert softmaxkit.explain(Exaq(), ROWS, clip=-4.0).backend == build
    assert all(name in str(choice).partition("not ")[2] for name in choice.refusals)


def test_what_is_no_back_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, "sse")
    backends.reset()
    names = ", ".join(("triton", "flex", *builds.NATIVE, "torch"))
    with pytest.raises(ValueError, match=f"SOFTMAXKIT_KERNELS must be {names} or none, got 'sse'"):
        softmaxkit.explain(Exact(), ROWS)


@pytest.mark.parametrize(("spec", "numbers"), [(Exact(), {}), (Exaq(), {"clip": -4.0})])
def test_autocast_casts_queries_keys_and_values(spec: Any, numbers: dict[str, Any]) -> None:
    """Models with rotary embeddings have queries and keys of float32 and values of bfloat16 there."""
    operands = [QUERY, QUERY, QUERY.bfloat16()]
    with pytest.raises(TypeError, match="must share a floating dtype"):
        softmaxkit.attention(*operands, spec, **numbers)
    with torch.autocast("cpu", torch.bfloat16):
        result = softmaxkit.attention(*operands, spec, **numbers)
        choice = softmaxkit.explain(spec, *operands, **numbers)
    halves = [x.bfloat16() for x in operands]
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, softmaxkit.attention(*halves, spec, **numbers))
    assert choice == softmaxkit.explain(spec, *halves, **numbers)


@pytest.mark.parametrize("spec", [Exact(), Exaq(), ConSmax(), Softermax()], ids=lambda spec: spec.method)
def test_autocast_narrows_neither_integers_nor_partial_attention(spec: Any) -> None:
    numbers = {"exaq": {"clip": -4.0}, "consmax": {"beta": 1.0, "gamma": 9.0}}.get(spec.method, {})
    operands = [QUERY, QUERY, QUERY]
    expected = softmaxkit.attention(*operands, spec, mode="integer", **numbers)
    highest = {"maximum": torch.full((1, 2, 20, 1), 9.0)} if spec.method == "exaq" else {}
    part = softmaxkit.partial_attention(*operands, spec, **numbers, **highest).result()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(softmaxkit.attention(*operands, spec, mode="integer", **numbers), expected)
        assert torch.equal(softmaxkit.partial_attention(*operands, spec, **numbers, **highest).result(), part)


def test_explain_takes_what_softmax_and_attention_take() -> None:
    wide = softmaxkit.explain(Softermax(), ROWS.double(), mode="integer")
    assert "it supports float32, not float64" in reasons(wide)
    flat = softmaxkit.explain(Exaq(), *[QUERY[0, 0]] * 3, clip=-4.0)
    assert flat == softmaxkit.explain(Exaq(), *[QUERY[:, :1]] * 3, clip=-4.0)
    with pytest.raises(TypeError, match="scores must be floating-point"):
        softmaxkit.explain(Exact(), ROWS.int())
    with pytest.raises(ValueError, match=r"2, 3 or 4 dimensions, got \(20,\)"):
        softmaxkit.explain(Exact(), *[QUERY[0, 0, :, 0]] * 3)


@pytest.mark.skipif(NATIVE == "torch", reason="no native kernels here")
def test_explain_answers_for_the_arguments_of_attention() -> None:
    operands, beta = [QUERY] * 3, torch.tensor(1.0, requires_grad=True)
    explain = partial(softmaxkit.explain, Exaq(), *operands, clip=-4.0)
    assert explain(is_causal=True, scale=-0.3).native
    assert explain(attn_mask=torch.ones(20, 20, dtype=torch.bool)).native
    assert "a bias is added" in reasons(explain(attn_mask=torch.ones(20, 20)))
    assert "dropout" in reasons(explain(dropout_p=0.1))
    assert "a scale of 3 exceeds" in reasons(explain(scale=3.0))
    assert "no gradient" in reasons(softmaxkit.explain(ConSmax(), *operands, beta=beta, gamma=1.0))
    with pytest.raises(TypeError, match="are those of attention: pass query, key, value"):
        softmaxkit.explain(Exaq(), ROWS, clip=-4.0, is_causal=True)
    with pytest.raises(ValueError, match="Exaq requires clip"):
        softmaxkit.explain(Exaq(), *operands)


@pytest.mark.parametrize("queries", [1, 20])
def test_a_cache_answers_in_the_dtype_of_the_queries_under_autocast(queries: int) -> None:
    cache = softmaxkit.KeyValueCache(QUERY, QUERY)
    with torch.autocast("cpu", torch.bfloat16):
        assert cache.attention(QUERY[:, :, :queries], Exaq(), clip=-4.0).dtype == torch.float32


@pytest.mark.parametrize("spec", [Exact(), Exaq()], ids=lambda spec: spec.method)
def test_shapes_on_the_meta_device(spec: Any) -> None:
    query = QUERY.to("meta")
    assert softmaxkit.attention(query, query, query, spec, **({"clip": -4.0} if spec == Exaq() else {})).is_meta
