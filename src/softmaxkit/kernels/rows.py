"""Row kernels for float32, bfloat16 and float16 on the CPU, with any strides, masks and causal masking.

Masked keys, and keys whose score is -inf, have the result 0 whatever the rest of the row contains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.launch import DTYPES, address, kernels_for, run

MOST_ENTRIES = 256
"""Maximum entries of a table of levels."""


def softmax(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False, out: Tensor | None = None) -> Tensor:
    """Return softmax over the last axis; zeros for a fully masked row, NaN for a row that attends to NaN or +inf.

    Args:
        scores: float32, bfloat16 or float16 on the CPU, (..., queries, keys).
        mask: boolean, True where attended, broadcasts to the scores.
        is_causal: mask the keys after each query, with the last query aligned to the last key.
        out: receives the result; contiguous, with the shape and dtype of the scores, not in their memory. Without it,
            allocating the result takes longer than the kernel.

    Raises:
        RuntimeError: no native kernels run here, see `softmaxkit.kernels.backends`.
        TypeError: the scores are not in one of these dtypes on the CPU, or the mask is not boolean on the CPU.
        ValueError: the mask does not broadcast to the scores, or `out` is not as described.
    """
    return softmax_to_base(scores, math.e, mask, is_causal, out)


def softmax_to_base(
    scores: Tensor,
    base: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return softmax to a base over the last axis, otherwise as `softmax`.

    Args:
        scores: as `softmax`.
        base: finite, above 1.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`, or the base is out of range.
    """
    check_base(base)
    return run("softmax", scores, mask, is_causal, math.log2(base), out=out)


def check_base(base: float) -> None:
    """Raise ValueError if a base is not finite and above 1."""
    if not 1 < base < math.inf:
        raise ValueError(f"base must be finite and above 1, got {base}")


def exponential(
    scores: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return `min(base**(score - offset), limit)` for each element.

    Args:
        scores: as `softmax`; (..., heads, queries, keys) if each head has its own offset.
        offset: floating, converted to float32, () or (heads,).
        limit: upper bound of the result, positive.
        base: finite, above 1.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`; or the offset has another shape, or the limit or the base is out of range.
    """
    offsets, parameters = exponential_parameters(scores, offset, limit, base)
    return run("exponential", scores, mask, is_causal, address(offsets), *parameters, out=out)


def log_limit(limit: float, base: float) -> float:
    """Return the logarithm of a limit to a base.

    Raises:
        ValueError: the limit is not positive, or the base is not finite and above 1.
    """
    if not (limit > 0 and 1 < base < math.inf):
        raise ValueError(f"limit must be positive and base finite and above 1, got {limit} and {base}")
    if limit == math.inf:
        return math.inf
    return math.log2(limit) if base == 2 else math.log(limit) / math.log(base)


def exponential_parameters(scores: Tensor, offset: Tensor, limit: float, base: float) -> tuple[Tensor, tuple[Any, ...]]:
    """Return the offsets, float32 on the CPU, and the arguments that follow their address in a kernel's signature."""
    offsets = offsets_of(scores, offset, "offset")
    return offsets, (offset.ndim == 1, log_limit(limit, base), math.log2(base))


def offsets_of(scores: Tensor, offset: Tensor, name: str) -> Tensor:
    """Return an offset, checked, as the kernels read it: float32 on the CPU, (1,) or (heads,)."""
    check_offset(offset, heads_of(scores), name)
    return offset.detach().to("cpu", torch.float32).reshape(-1).contiguous()


def logistic(
    scores: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return the logistic function `1 / (1 + exp(-(score + bias)))` of each element.

    Args:
        scores: as `softmax`; (..., heads, queries, keys) if each head has its own bias.
        bias: floating, converted to float32, () or (heads,).
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`, or the bias has another shape.
    """
    biases = offsets_of(scores, bias, "bias")
    return run("logistic", scores, mask, is_causal, address(biases), bias.ndim == 1, out=out)


def levels(
    scores: Tensor,
    clip: float,
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return softmax of the scores' distances from their row's maximum, rounded to evenly spaced levels.

    Args:
        scores: as `softmax`.
        clip: the lowest level, negative; the highest is 0.
        exponentials: exp of each level, from the clip up to 0; 4, 8 or 16 of them.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`, or as `check_levels`.
    """
    check_levels(clip, exponentials)
    return run("levels", scores, mask, is_causal, clip, list(exponentials), out=out)


def level_table(
    scores: Tensor,
    clip: float,
    entries: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return entries of a table, divided by their sum, for the distances from a row's maximum, rounded to levels.

    Args:
        scores: as `softmax`.
        clip: the lowest level, negative; the highest is 0.
        entries: for each level, evenly spaced from the clip up to 0; 2 to 256 of them, not negative, the last positive.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`, or as `check_entries`.
    """
    check_entries(clip, entries)
    return run("level_table", scores, mask, is_causal, clip, list(entries), out=out)


def heads_of(scores: Tensor) -> int | None:
    """Return the number of heads of scores, (..., heads, queries, keys); None if they have no such axis."""
    return scores.shape[-3] if scores.ndim > 2 else None


def check_offset(offset: Tensor, heads: int | None, name: str = "offset") -> None:
    """Check that an offset is one number, or one for each head; `name` is what errors call it.

    Raises:
        ValueError: it is neither; without heads it must be one number.
    """
    if offset.shape not in ((), (heads,)):
        per_head = "" if heads is None else f"({heads},) or "
        raise ValueError(f"{name} must be {per_head}a scalar, got {tuple(offset.shape)}")


def are_few_levels(entries: Sequence[float]) -> bool:
    """Return whether levels have a kernel of their own, `levels`, beside that of tables: 4, 8 or 16 positive ones."""
    return len(entries) in (4, 8, 16) and entries[0] > 0


def are_exponentials(clip: float, entries: Sequence[float]) -> bool:
    """Return whether entries of evenly spaced levels are their exponentials; the lowest may be 0 instead."""
    ratio = math.exp(clip / (1 - len(entries)))
    above = entries[1:] if entries[0] == 0 else entries
    return all(math.isclose(higher, lower * ratio, rel_tol=1e-5) for lower, higher in pairwise(above))


def check_entries(clip: float, entries: Sequence[float], most: int = MOST_ENTRIES) -> None:
    """Check that the kernels support a table of levels, up to `most` of them.

    Raises:
        ValueError: the clip or the entries are out of range.
    """
    check_clip(clip)
    are_finite = all(0 <= entry < math.inf for entry in entries)
    if not 2 <= len(entries) <= most or not are_finite or entries[-1] < torch.finfo(torch.float32).tiny:
        raise ValueError(f"entries must be 2 to {most} numbers, finite and not negative, and positive for level 0")


def check_levels(clip: float, exponentials: Sequence[float]) -> None:
    """Check that the kernels support a set of levels.

    Raises:
        ValueError: the number of levels is not 4, 8 or 16, or the clip is not negative and finite.
    """
    if len(exponentials) not in (4, 8, 16):
        raise ValueError(f"there must be 4, 8 or 16 levels, got {len(exponentials)}")
    check_clip(clip)


def check_clip(clip: float) -> None:
    """Check that a lowest level is negative and finite.

    Raises:
        ValueError: it is not.
    """
    if not -math.inf < clip < 0:
        raise ValueError(f"clip must be negative and finite, got {clip}")


def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest probabilities of softmax over the last axis and their indices, best first, in one pass.

    Args:
        logits: float32, bfloat16 or float16 on the CPU, (..., vocabulary).
        k: 1 to the size of the vocabulary.

    Returns:
        Probabilities in the dtype of the logits, and int64 indices, both (..., k), as by `torch.softmax` followed by
        `torch.topk`: NaN for a row in which every logit is -inf.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: k is out of range.
    """
    kernels = kernels_for(logits)
    source = logits.contiguous()
    size = source.shape[-1] if source.ndim else 0
    if not 1 <= k <= size:
        raise ValueError(f"k must be 1 to {size}, the logits of a row, got {k}")
    values = torch.empty(*source.shape[:-1], k, dtype=source.dtype, device="cpu")
    indices = torch.empty_like(values, dtype=torch.int64)
    is_done = torch.empty(source.shape[:-1], dtype=torch.bool, device="cpu")
    kernel = getattr(kernels, f"topk_{DTYPES[source.dtype]}")
    pointers = (address(tensor) for tensor in (source, values, indices, is_done))
    kernel(*pointers, is_done.numel(), size, k, torch.get_num_threads())
    if not is_done.all():  # rows with NaN or infinity, which torch orders in its own way
        rest = torch.softmax(source[~is_done], -1).topk(k)
        values[~is_done], indices[~is_done] = rest.values, rest.indices
    return values, indices
