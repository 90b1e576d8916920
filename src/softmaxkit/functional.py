"""One call, as `torch.softmax`."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.spec import Spec, check_spec


def softmax(
    scores: Array, spec: Spec, mask: Array | None = None, dim: int = -1, mode: str = "float", **parameters: Any
) -> Array:
    """Normalise scores by a method, along one dimension.

    Args:
        scores: floating torch tensor, NumPy array or what makes one, any shape.
        spec: the method, e.g. `softmaxkit.Softermax()`.
        mask: boolean, True where a key is attended; broadcasts to the scores.
        dim: the dimension of the keys.
        mode: "float", or "integer" for exactly what the hardware computes.
        parameters: the method's real numbers, as `beta` and `gamma` for ConSmax, `clip` for EXAQ.

    Returns:
        Probabilities, of the kind, shape and dtype of the scores; differentiable for tensors.

    Raises:
        ValueError: the mask does not fit, or EXAQ is given no clip.
        TypeError: scores are not floating, or the method has no such parameter.

    Example:
        >>> softmaxkit.softmax(np.array([0.0, 1.0]), softmaxkit.Softermax(), mode="integer")
        array([0.328125 , 0.6640625])
    """
    import torch

    check_spec(spec)
    if not isinstance(scores, torch.Tensor):
        scores = np.asarray(scores)
        if not np.issubdtype(scores.dtype, np.floating):
            raise TypeError(f"scores are floating, not {scores.dtype}; integer codes go to spec.golden")
        tensors = [None if x is None else torch.from_numpy(np.ascontiguousarray(x)) for x in (scores, mask)]
        with torch.no_grad():
            return softmax(tensors[0], spec, tensors[1], dim, mode, **parameters).numpy()
    module = spec.module(mode=mode, **{**spec.start(scores.shape[dim]), **parameters})
    return module.to(scores.device)(scores, mask, dim)
