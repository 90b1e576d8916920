"""Softmax as a function call: the counterparts of `torch.softmax`, and of `torch.softmax` followed by `torch.topk`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.methods.base.spec import Spec, check_spec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def softmax(
    scores: Array, spec: Spec, mask: Array | None = None, dim: int = -1, mode: str = "float", **parameters: Any
) -> Array:
    """Normalise scores with a method, along one dimension.

    Args:
        scores: floating-point torch tensor or array-like, any shape.
        spec: the method, e.g. `softmaxkit.Softermax()`.
        mask: boolean, True where a key is attended; broadcasts to the scores.
        dim: the dimension of the keys.
        mode: "float", or "integer" for exactly what the hardware computes.
        parameters: the method's real parameters, e.g. `beta` and `gamma` for ConSmax, `clip` for EXAQ; single numbers,
            or one per head for scores of (..., heads, queries, keys). Tensors may require a gradient if the method
            learns them.

    Returns:
        Probabilities with the type, shape and dtype of the scores; differentiable for tensors.

    Raises:
        ValueError: the mask does not broadcast or is on another device, or a required parameter (EXAQ's clip) is
            missing.
        IndexError: there is no such dimension.
        TypeError: the scores are not floating-point, the mask is a number, the dimension is not an integer, or the
            method has no such parameter.

    Example:
        >>> softmaxkit.softmax(np.array([0.0, 1.0]), softmaxkit.Softermax(), mode="integer")
        array([0.328125 , 0.6640625])
    """
    import torch

    from softmaxkit.kernels.attention import check_whole_numbers
    from softmaxkit.methods.base.numbers import module_for, normalise_with

    check_spec(spec)
    spec.require(parameters, softmax)
    check_whole_numbers(dim=dim)
    if type(mask) is int:  # torch.softmax takes dim without its name
        raise TypeError(f"the third argument is the mask, got {mask}; pass the dimension by name, dim={mask}")
    if not isinstance(scores, torch.Tensor):
        scores = np.asarray(scores)
        if scores.dtype.kind != "f" or scores.dtype.itemsize > 8:
            raise TypeError(
                f"scores must be floating-point of up to 64 bits, got {scores.dtype}; use spec.golden for integer codes"
            )
        tensors = [None if x is None else _tensor(np.asarray(x)) for x in (scores, mask)]
        with torch.no_grad():
            return softmax(tensors[0], spec, tensors[1], dim, mode, **parameters).numpy()
    if scores.ndim < 1:
        raise ValueError("scores must have the shape (..., keys), got a scalar")
    if not -scores.ndim <= dim < scores.ndim:
        raise IndexError(
            f"dim must be from {-scores.ndim} to {scores.ndim - 1} for {scores.ndim} dimensions, got {dim}"
        )
    module = module_for(spec, mode, scores.shape[dim], parameters, scores.device)
    return normalise_with(module, parameters)(scores, mask, dim)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor, of the same memory where torch can use it: writable, in the native byte order."""
    import torch

    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


class TopK(NamedTuple):
    """The result of `softmax_topk`, as of `torch.topk`: probabilities and indices, both (..., k), largest first."""

    values: torch.Tensor
    indices: torch.Tensor


def softmax_topk(logits: torch.Tensor, k: int, chunk: int = 65536) -> TopK:
    """Return the k largest probabilities of a softmax over the last axis, in one pass over the logits.

    The pass keeps the online-softmax state and the k largest logits; only those are exponentiated at the end (Milakov
    & Gimelshein, arXiv 1805.02867, section 4). Intended for large vocabularies: the probabilities of the other entries
    are never stored.

    Args:
        logits: shape (..., vocabulary), floating-point.
        k: number of probabilities to return, 1 to vocabulary.
        chunk: entries processed at a time where no native kernel is available.

    Returns:
        Probabilities in the dtype of the logits, and int64 indices, equal to `torch.softmax` followed by `torch.topk`,
        but with probabilities that round to the same number in the order of their logits; a row that is all
        -inf, or contains NaN or +inf, therefore gives NaN.

    Raises:
        TypeError: the logits are no floating-point tensor, or k or chunk is not an integer.
        ValueError: k or chunk is out of range, or the logits are a single number.
    """
    from softmaxkit.kernels.attention import check_tensors, check_whole_numbers
    from softmaxkit.kernels.backends import pick
    from softmaxkit.kernels.operators import topk
    from softmaxkit.kernels.row_call import RowCall

    check_tensors(logits=logits)
    check_whole_numbers(k=k, chunk=chunk)
    if logits.ndim < 1:
        raise ValueError("logits must have the shape (..., vocabulary), got a scalar")
    size = logits.shape[-1]
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating-point, got {logits.dtype}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to {size}, the number of logits in a row, got {k}")
    call = RowCall("topk", (k,), differentiable=False)
    if pick(call, logits).native:
        return TopK(*topk(logits, k))
    return _topk_in_chunks(logits, k, chunk)


def _topk_in_chunks(logits: torch.Tensor, k: int, chunk: int) -> TopK:
    import torch

    from softmaxkit.methods.base.online import OnlineSoftmax

    state, best, indices = OnlineSoftmax(), logits[..., :0], logits[..., :0].long()
    for start in range(0, logits.shape[-1], chunk):
        part = logits[..., start : start + chunk]
        state = state.update(part)
        candidates = part.topk(min(k, part.shape[-1]), dim=-1)
        best = torch.cat((best, candidates.values), dim=-1)
        indices = torch.cat((indices, candidates.indices + start), dim=-1)
        merged = best.topk(min(k, best.shape[-1]), dim=-1)
        best, indices = merged.values, indices.gather(-1, merged.indices)
    values = state.result(best).to(logits.dtype)
    irregular = ~state.maximum.isfinite()
    if irregular.any():
        whole = torch.softmax(logits, -1).topk(k)
        values = torch.where(irregular, whole.values, values)
        indices = torch.where(irregular, whole.indices, indices)
    return TopK(values, indices)
