"""The tables with which a native kernel computes exact softmax's golden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import ExactKernel
from softmaxkit.methods.exact.golden import exponential, significand_and_shift

if TYPE_CHECKING:
    from softmaxkit.methods.exact.spec import Exact

FARTHEST_BITS = 4
"""A distance of 2**4 to the maximum and beyond has the exponential 0: below every format's smallest normal, 2**-14."""


def kernel(spec: Exact) -> ExactKernel:
    """Tabulate golden's exponentials over every distance to the maximum that the format can say."""
    number = spec.format
    # Whole numbers of the finest step: 0, then 2**mantissa_bits mantissas for each exponent.
    place = torch.arange((FARTHEST_BITS - number.min_exponent << number.mantissa_bits) + 1, device="cpu")
    mantissa = place & ((1 << number.mantissa_bits) - 1) | (1 << number.mantissa_bits)
    distance = torch.nn.functional.pad(mantissa << (place >> number.mantissa_bits), (1, 0))
    significands, shifts = significand_and_shift(spec, -distance)
    return ExactKernel(
        mantissa_bits=number.mantissa_bits,
        smallest=number.smallest,
        largest=number.largest,
        farthest=2.0**FARTHEST_BITS,
        exponentials=exponential(spec, -distance).int(),
        significands=significands.int(),
        shifts=shifts.int(),
        slice_width=spec.slice_width if spec.schedule == "online" else 0,
        reciprocal=spec.reciprocal,
    )
