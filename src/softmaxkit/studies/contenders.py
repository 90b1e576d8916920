"""What the bench runs against each other: a copy, torch, and the methods, on a softmax or on an attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.fused_attention.call import attention
from softmaxkit.kernels import packed, rows
from softmaxkit.kernels.backends import backend_name
from softmaxkit.kernels.codes import BITS
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_result

SPREAD = 2.0
"""Standard deviation of the scores, as in trained attention layers."""

CHECKED = 1 << 19
"""Scores whose error against float64 is measured, at most."""


BFLOAT16 = "bfloat16"
TORCH_BFLOAT16: dict[str, Any] = {"method": "torch", "variant": BFLOAT16}
"""What a record says of torch's attention in bfloat16, the faster one on many processors."""


class Contender(NamedTuple):
    """Something to run.

    Attributes:
        figures: what a record says of it.
        run: `run(out)` writes into `out`, or returns new memory where that is None.
        truth: the result in float64, of as many first rows or heads as it has; None where it is not compared.
        exact: the same of exact attention, from which the method itself departs; None where that is not asked.
    """

    figures: dict[str, Any]
    run: Callable[[Tensor | None], Tensor]
    truth: Callable[[], Tensor] | None = None
    exact: Callable[[], Tensor] | None = None


def softmax_contenders(
    specs: Sequence[Spec],
    shape: tuple[int, ...],
    seed: int = 0,
    compiled: bool = False,
    modes: Sequence[str] = ("float", "integer"),
) -> list[Contender]:
    """Return a copy of the scores, torch's softmax, and that of each spec.

    Args:
        specs: the methods.
        shape: (rows, keys).
        seed: of the scores.
        compiled: torch's softmax compiled, too.
        modes: of the methods.
    """
    generator = torch.Generator().manual_seed(seed)
    # Rows differ in their level, as queries do.
    scores = torch.randn(shape, generator=generator) * SPREAD + torch.randn(shape[0], 1, generator=generator) * SPREAD
    checked = scores[: max(1, CHECKED // shape[1])].double()

    def exact() -> Tensor:
        return checked.softmax(-1)

    contenders = [
        Contender({"method": "copy"}, lambda out: scores.clone() if out is None else out.copy_(scores)),
        Contender({"method": "torch"}, lambda out: torch.softmax(scores, -1, out=out), exact),
    ]
    if compiled:
        compiled_softmax = torch.compile(lambda values: torch.softmax(values, -1))
        contenders.append(Contender({"method": "torch, compiled"}, lambda out: compiled_softmax(scores), exact))
    for spec in specs:
        for mode in modes:
            contenders += _softmax_of(spec, mode, scores, partial(_reference, spec, checked))
    return contenders


def _softmax_of(spec: Spec, mode: str, scores: Tensor, truth: Callable[[], Tensor]) -> list[Contender]:
    """Return a method's softmax; with packed codes too, where its kernel writes them."""
    module = sample_module(spec, scores.shape[1], mode, float(scores.abs().max()))
    call, choice = module.choose(scores)
    figures = make_result(spec, mode)
    if mode != "float" or call is None or not choice.native:
        return [Contender(figures, partial(_run_module, module, scores), truth)]
    kernel = getattr(rows, call.kernel)
    contenders = [Contender(figures, partial(_run_kernel, kernel, scores, call.arguments), truth)]
    if call.kernel == "levels":
        packing = partial(_run_packed, scores, call.arguments)
        contenders.append(Contender({**figures, "storage": "packed codes"}, packing))
    return contenders


def attention_contenders(
    specs: Sequence[Spec], shape: tuple[int, ...], seed: int = 0, compiled: bool = False
) -> list[Contender]:
    """Return a copy of keys and values, torch's attention, and that of each spec that has a kernel in float.

    Torch's runs in float32 and in bfloat16; the methods' in float32, and where there is one query, over caches too.

    Args:
        specs: the methods.
        shape: (heads, queries, keys, channels), and the number of heads of keys where these are fewer.
        seed: of queries, keys and values.
        compiled: torch's attention compiled, too.
    """
    heads, queries, keys, channels, *fewer = shape
    key_heads = fewer[0] if fewer else heads
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    # Keys and values have a mean for each channel, as real ones have.
    query, key = SPREAD * normal(1, heads, queries, channels), normal(1, key_heads, keys, channels)
    key, value = (
        key + normal(1, key_heads, 1, channels),
        normal(1, key_heads, keys, channels) + normal(1, key_heads, 1, channels) / 2,
    )
    checked_query, checked_key, checked_value = (tensor[:, :1].double() for tensor in (query, key, value))

    exact = partial(attention, checked_query, checked_key, checked_value, BASELINE)

    def contender(figures: dict[str, Any], run: Callable[[], Tensor], spec: Spec) -> Contender:
        numbers = spec.sample_parameters(keys, SPREAD)
        truth = partial(attention, checked_query, checked_key, checked_value, spec, **numbers)
        return Contender(figures, lambda out: run(), truth, exact)

    torchs = partial(scaled_dot_product_attention, enable_gqa=bool(fewer))
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    contenders = [
        Contender({"method": "copy"}, lambda out: (key.clone(), value.clone())[1]),
        contender({"method": "torch"}, partial(torchs, query, key, value), BASELINE),
        contender(TORCH_BFLOAT16, partial(torchs, *half), BASELINE),
    ]
    if compiled:
        with_compiler = torch.compile(torchs)
        contenders += [
            contender({"method": "torch, compiled"}, partial(with_compiler, query, key, value), BASELINE),
            contender({"method": "torch, compiled", "variant": BFLOAT16}, partial(with_compiler, *half), BASELINE),
        ]
    decoded = queries == 1 and backend_name() != "torch"
    caches = {bits: KeyValueCache(key, value, bits) for bits in BITS} if decoded else {}
    attend = partial(attention, enable_gqa=bool(fewer))
    for spec in specs:
        if kernel_mode(spec) != "float":
            continue  # in integers it runs through torch
        numbers = spec.sample_parameters(keys, SPREAD)
        figures = make_result(spec, "float")
        contenders.append(contender(figures, partial(attend, query, key, value, spec, **numbers), spec))
        for bits, cache in caches.items() if not spec.is_baseline else ():
            cached = partial(cache.attention, query, spec, **numbers)
            contenders.append(contender({**figures, "storage": f"{bits}-bit cache"}, cached, spec))
    return contenders


def kernel_mode(spec: Spec) -> str:
    """Return the mode in which a method has a kernel, whether or not that is built here; float if it has both."""
    call, _ = sample_module(spec, 1, "float").choose(torch.zeros(1, 1))
    return "integer" if call is None else "float"


def has_fused_attention(spec: Spec) -> bool:
    """Has a method a fused attention of its own, which a model's mode "fused" runs?"""
    return sample_module(spec, 1, "float").attention_call() is not None


def sample_module(spec: Spec, keys: int, mode: str, largest: float = 8.0) -> SoftmaxModule:
    """Return the module of a layer whose scores have the standard deviation `SPREAD`.

    Args:
        spec: the method.
        keys: of a row.
        mode: "float" or "integer".
        largest: magnitude of the scores; no integer code saturates up to there.
    """
    numbers = spec.sample_parameters(keys, SPREAD, largest if mode == "integer" else None)
    return spec.module(mode=mode, **numbers).eval()


def _run_kernel(
    kernel: Callable[..., Tensor], scores: Tensor, arguments: tuple[Any, ...], out: Tensor | None
) -> Tensor:
    return kernel(scores, *arguments, out=out)


def _run_module(module: SoftmaxModule, scores: Tensor, out: Tensor | None) -> Tensor:
    result: Tensor = module(scores)
    return result


def _run_packed(scores: Tensor, arguments: tuple[Any, ...], out: Tensor | None) -> Tensor:
    return packed.levels(scores, *arguments).codes


def _reference(spec: Spec, scores: Tensor) -> Tensor:
    return torch.from_numpy(spec.reference(scores.numpy(), **spec.sample_parameters(scores.shape[1], SPREAD)))
