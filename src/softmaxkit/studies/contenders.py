"""The contenders of the benchmark: a memory copy, torch and the methods, for softmax and for attention."""

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
from softmaxkit.studies.dtypes import Dtype, torch_dtypes

SPREAD = 2.0
"""Standard deviation of the scores, as in trained attention layers."""

CHECKED = 1 << 19
"""Maximum number of scores whose error against float64 is measured."""


FLOAT32 = Dtype.FLOAT32.value


class Contender(NamedTuple):
    """An implementation to time.

    Attributes:
        figures: its entry in the record.
        run: `run(out)` writes its result into `out`, or into new memory if `out` is None.
        truth: returns the method's result in float64 for the first rows or heads; None if errors are not measured.
        exact: returns the result of exact attention in float64, from which the method itself differs; None if that
            difference is not measured.
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
    dtype: str = FLOAT32,
) -> list[Contender]:
    """Return a copy of the scores, torch's softmax, and the softmax of each spec.

    Args:
        specs: the methods.
        shape: (rows, keys).
        seed: seed of the scores.
        compiled: add torch's softmax under torch.compile.
        modes: modes in which the methods run.
        dtype: of the scores, one of `Dtype`; the integer mode runs in float32 only.
    """
    generator = torch.Generator().manual_seed(seed)
    # Each row gets its own offset, as the scores of different queries have.
    scores = torch.randn(shape, generator=generator) * SPREAD + torch.randn(shape[0], 1, generator=generator) * SPREAD
    scores = scores.to(getattr(torch, dtype))
    checked = scores[: max(1, CHECKED // shape[1])].double()

    def exact() -> Tensor:
        return checked.softmax(-1)

    contenders = [
        Contender({"method": "copy"}, lambda out: scores.clone() if out is None else out.copy_(scores)),
        Contender({"method": "torch"}, lambda out: torch.softmax(scores, -1, out=out), exact),
    ]
    if compiled:
        compiled_softmax = freshly_compiled(lambda values: torch.softmax(values, -1))
        contenders.append(Contender({"method": "torch, compiled"}, lambda out: compiled_softmax(scores), exact))
    for spec in specs:
        for mode in modes if dtype == FLOAT32 else {"float"}.intersection(modes):
            contenders += _softmax_of(spec, mode, scores, partial(_reference, spec, checked))
    return contenders


def freshly_compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function under torch.compile, for one shape.

    Earlier shapes are forgotten: after eight of them, torch would run the function eagerly.
    """
    torch.compiler.reset()
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=False)
    return compiled


def _softmax_of(spec: Spec, mode: str, scores: Tensor, truth: Callable[[], Tensor]) -> list[Contender]:
    """Return a method's softmax, and a second contender for packed codes if its kernel can write them."""
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
    specs: Sequence[Spec], shape: tuple[int, ...], seed: int = 0, compiled: bool = False, dtype: str = FLOAT32
) -> list[Contender]:
    """Return a copy of keys and values, torch's attention, and the attention of each spec that has a fused one.

    Torch's runs on the same numbers in float32, in bfloat16, which is faster on many processors, and in float16 if the
    methods do; the last two are variants. With a single query the methods run over quantised caches too.

    Args:
        specs: the methods.
        shape: (heads, queries, keys, channels), followed by the number of key heads if these are fewer than the heads.
        seed: seed of queries, keys and values.
        compiled: add torch's attention under torch.compile.
        dtype: of the methods' queries, keys and values, one of `Dtype`.
    """
    heads, queries, keys, channels, *fewer = shape
    key_heads = fewer[0] if fewer else heads
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    # Each channel of keys and values has its own mean, as in real models.
    query, key = SPREAD * normal(1, heads, queries, channels), normal(1, key_heads, keys, channels)
    key, value = (
        key + normal(1, key_heads, 1, channels),
        normal(1, key_heads, keys, channels) + normal(1, key_heads, 1, channels) / 2,
    )
    own = [tensor.to(getattr(torch, dtype)) for tensor in (query, key, value)]
    query, key, value = (tensor.float() for tensor in own)
    checked_query, checked_key, checked_value = (tensor[:, :1].double() for tensor in (query, key, value))

    exact = partial(attention, checked_query, checked_key, checked_value, BASELINE)

    def contender(figures: dict[str, Any], run: Callable[[], Tensor], spec: Spec) -> Contender:
        numbers = spec.sample_parameters(keys, SPREAD)
        truth = partial(attention, checked_query, checked_key, checked_value, spec, **numbers)
        return Contender(figures, lambda out: run(), truth, exact)

    torchs = partial(scaled_dot_product_attention, enable_gqa=bool(fewer))
    variants = {
        name: [tensor.to(getattr(torch, name)) for tensor in (query, key, value)] for name in torch_dtypes(dtype)
    }
    contenders = [Contender({"method": "copy"}, lambda out: (key.clone(), value.clone())[1])]
    runs: dict[str, Callable[..., Tensor]] = {"torch": torchs}
    if compiled:
        runs["torch, compiled"] = freshly_compiled(torchs)
    for method, run in runs.items():
        for name, tensors in variants.items():
            figures = {"method": method} | ({} if name == FLOAT32 else {"variant": name})
            contenders.append(contender(figures, partial(run, *tensors), BASELINE))
    decoded = queries == 1 and backend_name() != "torch"
    caches = {bits: KeyValueCache(own[1], own[2], bits) for bits in BITS} if decoded else {}
    attend = partial(attention, enable_gqa=bool(fewer))
    for spec in specs:
        if not has_fused_attention(spec):
            continue  # it would run in plain torch
        numbers = spec.sample_parameters(keys, SPREAD)
        figures = make_result(spec, "float")
        contenders.append(contender(figures, partial(attend, *own, spec, **numbers), spec))
        for bits, cache in caches.items():
            cached = partial(cache.attention, own[0], spec, **numbers)
            contenders.append(contender({**figures, "storage": f"{bits}-bit cache"}, cached, spec))
    return contenders


def kernel_mode(spec: Spec) -> str:
    """Return the mode in which a method has a kernel, built here or not: "float" unless it has none for that."""
    call, _ = sample_module(spec, 1, "float").choose(torch.zeros(1, 1))
    return "integer" if call is None else "float"


def has_fused_attention(spec: Spec) -> bool:
    """Return whether a model runs a method as fused attention in mode "fused": its own, or softmax."""
    module = sample_module(spec, 1, "float")
    return module.attention_call() is not None or module.softmax_base is not None


def sample_module(spec: Spec, keys: int, mode: str, largest: float = 8.0) -> SoftmaxModule:
    """Return a softmax module with parameters that suit scores of the standard deviation `SPREAD`.

    Args:
        spec: the method.
        keys: row length.
        mode: "float" or "integer".
        largest: largest magnitude of the scores, up to which no integer code saturates.
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
