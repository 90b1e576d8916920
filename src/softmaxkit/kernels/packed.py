"""Probabilities of a few levels in packed form: a 2- or 4-bit level per key, and each level's probability per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from softmaxkit.kernels.launch import DTYPES, address, kernels_for, untraced
from softmaxkit.kernels.rows import check_levels


class Packed(NamedTuple):
    """Rows of probabilities, stored as levels.

    Attributes:
        codes: uint8, (..., bytes): one level per key, in 2 bits if there are 4 levels, in 4 bits if there are 8 or 16;
            the first key in the lowest bits.
        probabilities: float32, (..., levels): the probability of a key at each level.
        keys: number of keys in a row.
    """

    codes: Tensor
    probabilities: Tensor
    keys: int

    def unpack(self) -> Tensor:
        """Return the probabilities, float32, (..., keys)."""
        bits = _bits(self.probabilities.shape[-1])
        places = torch.arange(0, 8, bits, dtype=torch.uint8, device=self.codes.device)
        levels = (self.codes[..., None] >> places & 2**bits - 1).flatten(-2)[..., : self.keys]
        return self.probabilities.gather(-1, levels.long())


@untraced
def levels(scores: Tensor, clip: float, exponentials: Sequence[float]) -> Packed:
    """Return the result of `rows.levels` in packed form, which takes a sixteenth or an eighth of float32's memory.

    Args:
        scores: float32, bfloat16 or float16 on the CPU, (..., keys), all finite: masked keys have no level.
        clip: the lowest level, negative.
        exponentials: exp of each level, from the clip up to 0; 4, 8 or 16 of them.

    Raises:
        RuntimeError, TypeError: as `rows.softmax`.
        ValueError: a score is infinite or NaN, or as `rows.check_levels`.
    """
    check_levels(clip, exponentials)
    kernels = kernels_for(scores)
    if scores.ndim < 1:
        raise ValueError("scores must be (..., keys), got ()")
    source = scores.contiguous()
    *outer, keys = source.shape
    count = len(exponentials)
    codes = torch.empty(*outer, -(-keys * _bits(count) // 8), dtype=torch.uint8, device="cpu")
    probabilities = torch.zeros(*outer, count, dtype=torch.float32, device="cpu")
    is_finite = torch.ones(outer, dtype=torch.bool, device="cpu")
    if source.numel():
        kernel = getattr(kernels, f"levels_packed_{DTYPES[source.dtype]}")
        pointers = (address(tensor) for tensor in (source, codes, probabilities, is_finite))
        kernel(*pointers, is_finite.numel(), keys, torch.get_num_threads(), clip, list(exponentials))
    if not is_finite.all():
        raise ValueError(
            "scores must be finite, but one is infinite or NaN: packed codes cannot represent it; rows.levels can"
        )
    return Packed(codes, probabilities, keys)


def _bits(levels: int) -> int:
    """Return the bits of a code, given the number of levels."""
    return 2 if levels == 4 else 4
