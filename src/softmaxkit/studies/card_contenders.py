"""What the bench compares on a GPU: rows, and attention forward and backward, by back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit.fused_attention.call import attention
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.numbers import without_gradients
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_result
from softmaxkit.studies.contenders import SPREAD, freshly_compiled, sample_module

KERNELS = {"triton": "softmaxkit.kernels.triton.attention", "flex": "softmaxkit.kernels.flex"}
"""Modules that run attention on GPUs, by back end."""
LIBRARY = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Back ends of scaled_dot_product_attention."""
LARGEST_MATRIX = 1 << 30
"""Most scores for which the math back end runs, which stores the whole matrix of them."""
CHECKED_QUERIES = 64
"""Queries of the first head whose result is compared with float64."""
BACKWARD_WORK = 2.5
"""Matrix products of the backward pass per one of the forward: five, with recomputed scores, against two."""


@dataclass
class CardContender:
    """An implementation to run on a card.

    Attributes:
        figures: its fields in a record.
        run: runs it once and returns a result, part of which is compared with `truth`.
        flops: floating-point operations of a run; 0 where memory is the bottleneck.
        bytes: bytes that a run has to read and write.
        truth: computes part of the result in float64; None where it is not compared.
    """

    figures: dict[str, Any]
    run: Callable[[], Tensor]
    flops: float = 0.0
    bytes: int = 0
    truth: Callable[[], Tensor] | None = field(default=None, repr=False)


def row_contenders(
    specs: Sequence[Spec], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> Iterator[CardContender]:
    """Yield torch's softmax, eager and compiled, and that of every spec, in floating point and in integers.

    Args:
        specs: the methods.
        shape: (rows, keys).
        dtype: dtype of the scores; the integer mode uses float32.
        device: the card.
        seed: seed of the scores.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(shape, generator=generator) * SPREAD).to(device, dtype)
    moved = 2 * scores.nbytes
    checked = scores[:CHECKED_QUERIES].double()
    compiled = freshly_compiled(lambda values: torch.softmax(values, -1))
    about = {"kind": "rows", "dtype": dtype_name(dtype)}
    for name, run in (("eager", partial(torch.softmax, scores, -1)), ("compiled", partial(compiled, scores))):
        yield CardContender({**about, "method": "torch", "backend": name}, run, 0.0, moved, lambda: checked.softmax(-1))
    for spec in specs:
        for mode in ("float", "integer"):
            source = scores if mode == "float" else scores.float()
            module = sample_module(spec, shape[1], mode, float(scores.abs().max())).to(device)
            call, choice = module.choose(source) if mode == "float" else module.choose_integers(source)
            if call is None:
                continue
            numbers = spec.sample_parameters(shape[1], SPREAD)
            truth = partial(_rows_in_float64, spec, checked, numbers) if mode == "float" else None
            figures = {**about, **make_result(spec, mode), "backend": choice.backend, "dtype": dtype_name(source.dtype)}
            yield CardContender(figures, partial(module, source), 0.0, 2 * source.nbytes, truth)


def attention_contenders(
    specs: Sequence[Spec], shape: tuple[int, ...], causal: bool, dtype: torch.dtype, device: torch.device, seed: int
) -> Iterator[CardContender]:
    """Yield attention forward, and forward and backward: torch's on its back ends, and every spec's on ours.

    Gradients are those of queries, keys and values. That of a learned offset costs FlexAttention another forward pass,
    and the Triton kernels nothing, so it is left out.

    Args:
        specs: the methods.
        shape: (heads, queries, keys, channels).
        causal: whether a query attends only to keys up to its own index.
        dtype: dtype of queries, keys and values.
        device: the card.
        seed: seed of the tensors.
    """
    heads, queries, keys, channels = shape
    query, key, value = operands(shape, dtype, device, seed)
    work = 4.0 * heads * queries * keys * channels / (2 if causal else 1)
    moved = 2 * query.nbytes + key.nbytes + value.nbytes
    about = {"kind": "attention", "dtype": dtype_name(dtype), "causal": causal}

    def both(
        figures: dict[str, Any], run: Callable[[Tensor, Tensor, Tensor], Tensor], spec: Spec
    ) -> Iterator[CardContender]:
        truth = partial(attention_in_float64, spec, (query, key, value), causal)
        forward = {**about, **figures, "pass": "forward"}
        yield CardContender(forward, partial(_without_gradients, run, query, key, value), work, moved, truth)
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        gradient = torch.ones_like(query)
        backward = {**about, **figures, "pass": "forward and backward"}
        total = work * (1 + BACKWARD_WORK)
        yield CardContender(backward, partial(_with_gradients, run, leaves, gradient), total, 3 * moved, truth)

    for name, backend in LIBRARY.items():
        if name != "math" or heads * queries * keys <= LARGEST_MATRIX:
            figures = {"method": "torch", "backend": f"scaled_dot_product_attention, {name}"}
            yield from both(figures, partial(by_library, backend, causal), BASELINE)
    yield from both({"method": "torch", "backend": "FlexAttention"}, _by_flex_attention(causal), BASELINE)
    for spec in specs:
        module = without_gradients(sample_module(spec, keys, "float"), device)
        if module.softmax_base is not None:
            figures = {**make_result(spec, "float"), "backend": "scaled_dot_product_attention"}
            yield from both(figures, partial(attention, spec=spec, is_causal=causal), spec)
        call = module.attention_call()
        for name, path in KERNELS.items():
            if call is None or call.support(name) is None or call.reasons(name, query, key, value):
                continue
            run = partial(_by_kernel, path, call, causal)
            yield from both({**make_result(spec, "float"), "backend": name}, run, spec)


def operands(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> list[Tensor]:
    """Return queries, keys and values of one sequence; arguments as in `softmaxkit.studies.card_decoding`."""
    heads, queries, keys, channels, *fewer = shape
    key_heads = fewer[0] if fewer else heads
    generator = torch.Generator(device).manual_seed(seed)
    normal = partial(torch.randn, generator=generator, device=device)
    query = SPREAD * normal(1, heads, queries, channels)
    key, value = (normal(1, key_heads, keys, channels) for _ in range(2))
    return [x.to(dtype) for x in (query, key, value)]


def by_library(
    backend: SDPBackend, causal: bool, query: Tensor, key: Tensor, value: Tensor, is_grouped: bool = False
) -> Tensor:
    """Run torch's attention on one of its back ends; with `is_grouped`, heads share keys."""
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=is_grouped)


def _by_flex_attention(causal: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return exact attention by FlexAttention, with its block mask built once."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)
    blocks: list[Any] = []

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if causal and not blocks:
            queries, keys = query.shape[2], key.shape[2]
            blocks.append(create_block_mask(lambda b, h, i, j: i >= j, None, None, queries, keys, query.device))
        function: Any = compiled if query.is_cuda else flex_attention
        result: Tensor = function(query, key, value, block_mask=blocks[0] if blocks else None)
        return result

    return run


def _by_kernel(path: str, call: AttentionCall, causal: bool, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    result: Tensor = import_module(path).attend(query, key, value, call, is_causal=causal)
    return result


def _without_gradients(run: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    with torch.no_grad():
        return run(*operands)


def _with_gradients(run: Callable[..., Tensor], leaves: Sequence[Tensor], gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        result = run(*leaves)
        torch.autograd.grad(result, leaves, gradient)
    return result.detach()


def _rows_in_float64(spec: Spec, scores: Tensor, numbers: dict[str, Any]) -> Tensor:
    return torch.from_numpy(spec.reference(scores.cpu().numpy(), **numbers)).to(scores.device)


def attention_in_float64(spec: Spec, tensors: Sequence[Tensor], causal: bool) -> Tensor:
    """Return the result of the first queries of the first head; `tensors` are queries, keys and values."""
    query, key, value = (x[:, :1].double() for x in tensors)
    query = query[:, :, :CHECKED_QUERIES]
    numbers = spec.sample_parameters(key.shape[2], SPREAD)
    # The first queries attend to the same keys as in the whole, causal or not.
    return attention(query, key, value, spec, is_causal=causal, **numbers)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as records have it."""
    return str(dtype).removeprefix("torch.")
