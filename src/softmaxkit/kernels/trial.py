"""The trial of the AMX kernels on the processor at hand, before the first call that could use them.

What AMX gains depends on the processor, on how many threads share a core's matrix unit, and on what a virtual machine
makes of it. So its kernels first run beside those that they would replace, on a problem of a few milliseconds, and are
taken if they are right and faster. The trial has its own thread, where no mode of torch is active and none of the
caller's settings applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.native_attention import attend

SHAPE = (1, 8, 512, 64)
"""(batch, heads, queries and keys, channels) of the trial."""
ROUNDS = 5
"""Runs of each contender, in turn, of which the fastest counts."""


def _in_own_thread(trial: Callable[..., str]) -> Callable[..., str]:
    @wraps(trial)
    def run(*arguments: Any) -> str:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(trial, *arguments).result()

    return run


@_in_own_thread
def objection_to_tiles(tiles: ModuleType, vectors: ModuleType) -> str:
    """Return why 8-bit attention by tiles is not taken; empty if it equals that by vectors in every bit, only faster.

    Args:
        tiles: the build with AMX, or with tiles emulated in C++.
        vectors: the build that runs otherwise.
    """
    call = AttentionCall.by_levels(-5.0, [math.exp(5 / 3 * (level - 3)) for level in range(4)])
    query, key, value = _operands(torch.float32)
    own, other = (partial(attend, query, key, value, call, kernels=kernels) for kernels in (tiles, vectors))
    return _objection(own, other, torch.equal)


@_in_own_thread
def objection_to_softmax(kernels: ModuleType, dtype: torch.dtype) -> str:
    """Return why a build's softmax attention is not taken in place of torch's own in a dtype; empty if it is faster.

    Its error must be at most twice that of torch's, by root mean square against float32.
    """
    query, key, value = _operands(dtype)
    reference = scaled_dot_product_attention(query.float(), key.float(), value.float())

    def is_as_precise(result: Tensor, torchs: Tensor) -> bool:
        error, allowed = ((x.float() - reference).square().mean().sqrt() for x in (result, torchs))
        return bool(error <= 2 * allowed)

    own = partial(attend, query, key, value, AttentionCall.by_softmax(math.e), kernels=kernels)
    return _objection(own, partial(scaled_dot_product_attention, query, key, value), is_as_precise)


def _operands(dtype: torch.dtype) -> list[Tensor]:
    """Return queries, keys and values of normal numbers, from a generator that leaves torch's alone."""
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.standard_normal(SHAPE, np.float32)).to(dtype) for _ in range(3)]


def _objection(
    candidate: Callable[[], Tensor], incumbent: Callable[[], Tensor], agree: Callable[[Tensor, Tensor], bool]
) -> str:
    try:
        if not agree(candidate(), incumbent()):
            return "in a trial its results were wrong on this processor"
    except ArithmeticError as error:
        return f"in a trial it failed on this processor: {error}"
    fastest = [math.inf, math.inf]
    for _ in range(ROUNDS):
        for which, run in enumerate((candidate, incumbent)):
            start = perf_counter()
            run()
            fastest[which] = min(fastest[which], perf_counter() - start)
    if fastest[0] < fastest[1]:
        return ""
    own, other = (f"{seconds * 1e3:.3g} ms" for seconds in fastest)
    return f"in a trial on this processor it took {own}, and without it {other}"
