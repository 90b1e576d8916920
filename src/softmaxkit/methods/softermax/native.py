"""The tables with which a native kernel computes Softermax's golden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import LANE_BITS, WORD_BITS, SoftermaxKernel
from softmaxkit.methods.softermax.golden import power_of_two

if TYPE_CHECKING:
    from softmaxkit.methods.softermax.spec import Softermax
    from softmaxkit.methods.base.constants import Constants


def kernel(spec: Softermax, constants: Constants) -> SoftermaxKernel | None:
    """Tabulate golden's powers over all differences of a score and a whole maximum.

    None where products are too wide, or where heads have score scales of their own.
    """
    lowest, highest = spec.score_range()
    scale = constants.real_scale
    bits = spec.input.fraction_bits
    # From the lowest score below the highest whole maximum to just below 1 above its own, where whole ones saturate.
    least = lowest - (highest >> bits << bits)
    difference = torch.arange(least, 1 << bits, device="cpu")
    powers = power_of_two(spec, difference, torch.zeros_like(difference)).int()
    places = (
        spec.unnormalised.fraction_bits
        + spec.reciprocal.fraction_bits
        - spec.power_sum.fraction_bits
        - spec.output.fraction_bits
    )
    product_bits = int(powers.max()).bit_length() + spec.reciprocal.bits + max(-places, 0)
    if product_bits > WORD_BITS or isinstance(scale, tuple):
        return None
    return SoftermaxKernel(
        scale=scale,
        lowest=lowest,
        highest=highest,
        fraction_bits=bits,
        ceil=spec.integer_maximum == "ceil",
        rounding=spec.rounding,
        powers=torch.nn.functional.pad(powers, (1, 0)),
        least_difference=least,
        # One slice of all keys is one exact sum over the global maximum.
        slice_width=spec.slice_width if spec.maximum == "online" else (1 << 62),
        sum_places=spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits,
        sum_limit=spec.power_sum.max_code,
        reciprocal=spec.reciprocal_table,
        places=places,
        limit=spec.output.max_code,
        step=spec.output.resolution,
        narrow=product_bits <= LANE_BITS,
    )
