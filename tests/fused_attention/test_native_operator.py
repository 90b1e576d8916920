"""Native attention as an operator: torch's opcheck, one graph for a whole model, export, and its fall-back to torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from transformers import StaticCache

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exaq, Index, Sigmoid
from softmaxkit.fused_attention import native
from softmaxkit.kernels import backends
from softmaxkit.kernels.attention import AttentionCall

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

CALLS = {
    "levels": AttentionCall.by_levels(-5.0, Exaq(bits=2).exponentials(-5.0)),
    "levels of heads": AttentionCall.by_levels_of_heads(
        [-5.0, -2.0], [Exaq().exponentials(clip) for clip in (-5.0, -2.0)]
    ),
    "a table of levels": AttentionCall.by_levels(-6.6, Index().powers),
    "exponentials": AttentionCall.by_exponential(torch.tensor([0.5, 1.0]), 0.7),
    "logistic functions": AttentionCall.by_logistic(torch.tensor([3.0, 4.0])),
}
METHODS: dict[str, Any] = {
    "exaq": (Exaq(bits=3), {"clip": -5.0}),
    "consmax": (ConSmax(), {"beta": 0.5, "gamma": 1.0}),
    "index": (Index(), {}),
    "sigmoid": (Sigmoid(), {"bias": -3.0}),
}
OF_HEADS: dict[str, Any] = {"exaq": (Exaq(bits=3, share="head"), {"clip": [-5.0, -3.0]})}
MANY, FEW = 40, 3


def tensors(queries: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = (2, 2, queries, 16), (2, 1, 50, 16), (2, 1, 50, 8)
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def arguments(call: AttentionCall, *operands: Tensor, mask: Tensor | None = None) -> tuple[Any, ...]:
    entries = [entry for of_head in call.entries for entry in of_head]
    numbers = call.form, list(call.clips), entries, call.offset, call.limit, call.base
    return (*operands, mask, mask is None, 0.25, *numbers)


@pytest.mark.parametrize("queries", [MANY, FEW])
@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        pytest.param(call, dtype, id=f"{name}-{dtype}", marks=marks)
        for name, call in CALLS.items()
        for dtype, marks in ((torch.float32, []), (torch.bfloat16, pytest.mark.slow if name == "levels" else []))
    ],
)
def test_it_passes_opcheck(queries: int, call: AttentionCall, dtype: torch.dtype) -> None:
    mask = torch.rand(queries, 50, generator=torch.Generator().manual_seed(1)) < 0.7
    operands = tensors(queries, dtype)
    torch.library.opcheck(native.native_attention.overload, arguments(call, *operands, mask=mask))
    torch.library.opcheck(native.native_attention.overload, arguments(call, *(x.mT.contiguous().mT for x in operands)))


@pytest.mark.parametrize("queries", [MANY, FEW])
@pytest.mark.parametrize("method", [*METHODS.values(), *OF_HEADS.values()], ids=str)
@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "coarse"])
def test_numbers_that_kernels_refuse_reach_torch_inside_the_operator(queries: int, method: Any, bad: Any) -> None:
    """Also in a compiled function, whose graph is traced without numbers."""
    spec, numbers = method
    module, operands = spec.module(heads=2, **numbers), tensors(queries)
    compiled = torch.compile(
        lambda *given: softmaxkit.attention(*given, spec, enable_gqa=True, **numbers), backend="eager"
    )
    assert torch.equal(compiled(*operands), compiled(*operands))
    if bad == "coarse":
        operands[1][..., 0] *= 1000  # outliers in some tokens, and a spread of scores that 8 bits cannot represent
        operands[0] *= 30
    elif bad is not None:
        operands[2][1, 0, 7] = bad
    expected = softmaxkit.attention(*operands, spec, enable_gqa=True, **numbers)
    assert torch.equal(compiled(*operands).nan_to_num(), expected.nan_to_num())
    scores = operands[0] @ operands[1].mT * 0.25
    truth = module(scores) @ operands[2]
    assert torch.equal(truth.isfinite(), expected.isfinite())
    if bad in (math.nan, math.inf):  # in the second sequence
        truth, expected = truth[1], expected[1]
    finite = truth.isfinite()
    if bad is None and queries == MANY:
        assert not torch.allclose(expected, truth, atol=1e-4)  # a kernel ran, in 8 bits
    else:
        assert torch.allclose(expected[finite], truth[finite], atol=1e-4)


@pytest.mark.parametrize("queries", [MANY, FEW])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("seen", [0, 1, 31, 49])
def test_keys_that_are_dropped_change_nothing(
    seen: int, call: AttentionCall, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operands, given = tensors(queries), []
    operands[1][:, :, seen:] *= 1000
    random = torch.Generator().manual_seed(1)
    attend = native.attend
    monkeypatch.setattr(native, "attend", lambda *all_given: given.append(all_given[1].shape[2]) or attend(*all_given))
    for shape in ((50,), (queries, 50), (2, 1, 1, 50), (2, 2, queries, 50)):
        mask = torch.rand(shape, generator=random) < 0.7
        mask[..., seen:] = False
        mask[..., max(seen - 1, 0)] = seen > 0
        for one in (mask, mask.expand(2, 2, queries, 50)):
            result = native.native_attention(*arguments(call, *operands, mask=one))
            assert torch.equal(result, attend(*operands, call, one, False, 0.25))
    assert given == [seen] * 8


def counting(graphs: list[int]) -> Callable[[Any, Any], Any]:
    """Return a back end that runs graphs as they are, and appends for each how many attentions it has."""

    def compile_graph(graph: Any, inputs: Any) -> Any:
        graphs.append(str(graph.graph).count("softmaxkit.native_attention"))
        return graph

    return compile_graph


@pytest.mark.parametrize("method", [pytest.param("exaq", marks=pytest.mark.slow), "consmax"])
@torch.no_grad()
def test_a_model_compiles_to_one_graph(method: str) -> None:
    """With more layers than a frame is recompiled here, so that breaks at every layer would leave some uncompiled."""
    torch.compiler.reset()
    spec, numbers = METHODS[method]
    model = softmaxkit.apply(tiny_model("llama", layers=3), spec, mode="fused", **numbers)
    caches = [StaticCache(config=model.config, max_cache_len=16) for _ in range(2)]
    tokens = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    graphs: list[int] = []
    compiled: Any = torch.compile(model, backend=counting(graphs), fullgraph=True)
    with dynamo_config.patch(recompile_limit=2):
        for part in (tokens, tokens[:, :1], tokens[:, 1:2]):
            result, expected = (run(part, cache=cache) for run, cache in zip((compiled, model), caches, strict=True))
            assert torch.equal(result.logits, expected.logits)
    assert graphs == [3, 3]  # the prompt, and one token


@torch.no_grad()
def test_layers_compile_by_themselves() -> None:
    """With a clip each, which Dynamo would take for one number that changes."""
    torch.compiler.reset()
    model = softmaxkit.apply(tiny_model("llama", layers=3), Exaq(bits=3))
    tokens = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    softmaxkit.set_mode(softmaxkit.calibrate(model, [tokens]), "fused")
    expected = model(tokens, use_cache=False).logits
    graphs: list[int] = []
    for layer in model.model.layers:
        layer.compile(backend=counting(graphs), fullgraph=True)
    assert torch.equal(model(tokens, use_cache=False).logits, expected)
    assert graphs == [1, 1, 1]


@pytest.mark.parametrize("part", [pytest.param("", id="model", marks=pytest.mark.slow), "model.layers.0.self_attn"])
@torch.no_grad()
def test_a_cache_of_codes_breaks_the_graph_without_a_warning(part: str) -> None:
    torch.compiler.reset()
    model = softmaxkit.apply(tiny_model("llama", layers=1), Exaq(bits=3), mode="fused", clip=-5.0)
    compiled = copy.deepcopy(model)
    compiled.get_submodule(part).compile(backend="eager")
    tokens = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    caches = [softmaxkit.QuantisedCache(model.config) for _ in range(2)]
    for given in (tokens, tokens[:, :1]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            result = compiled(given, cache=caches[0]).logits
        assert torch.equal(result, model(given, cache=caches[1]).logits)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_model_is_exported_with_the_operator(method: str) -> None:
    spec, numbers = METHODS[method]
    model = softmaxkit.apply(tiny_model("bert"), spec, mode="fused", **numbers)
    tokens = torch.randint(0, 100, (2, 24), generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(model, (tokens,))
    assert "softmaxkit.native_attention" in str(exported.graph)
    assert torch.equal(exported.module()(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_trace_of_a_model_records_the_operator(method: str) -> None:
    """Of a kernel it used to record an empty result alone, whatever memory held."""
    spec, numbers = METHODS[method]
    model = softmaxkit.apply(tiny_model("gpt2"), spec, mode="fused", **numbers)
    model.config.use_cache = False
    tokens = torch.randint(0, 100, (2, 24), generator=torch.Generator().manual_seed(0))
    traced = torch.jit.trace(model, (tokens,), check_trace=False, strict=False)
    assert torch.equal(traced(tokens.flip(0))["logits"], model(tokens.flip(0)).logits)
