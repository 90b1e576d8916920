"""Parameters of the Softermax integer kernel, native and on GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.integers import LANE_BITS, WORD_BITS, KernelCall, native_reciprocal
from softmaxkit.kernels.launch import address
from softmaxkit.methods.softermax.golden import power_of_two
from softmaxkit.rounding import Rounding
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.softermax.spec import Softermax


@dataclass(frozen=True, eq=False)
class SoftermaxCall(KernelCall):
    """Softermax, slice by slice.

    Attributes:
        scale, lowest, highest: real score scale, and the codes at which scores saturate.
        fraction_bits: fraction bits of the input.
        ceil: whether integer maxima are rounded up.
        rounding: rounding of everything else.
        powers: int32: a 0 for masked scores, then the powers by difference of score code and integer maximum, from
            `least_difference` up.
        least_difference: difference of the first power.
        slice_width: positions that are summed exactly.
        sum_places: fraction bits of the powers minus those of their sum.
        sum_limit: largest code of the sum.
        reciprocal: table of the reciprocal of the sum.
        places: fraction bits of power * mantissa minus those of the output, without the reciprocal's exponent.
        limit: largest output code.
        step: resolution of the output.
        narrow: whether products fit 32-bit lanes.
    """

    name = "softermax"

    scale: float
    lowest: int
    highest: int
    fraction_bits: int
    ceil: bool
    rounding: Rounding
    powers: Tensor
    least_difference: int
    slice_width: int
    sum_places: int
    sum_limit: int
    reciprocal: Reciprocal
    places: int
    limit: int
    step: float
    narrow: bool

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        tables = kernels.IntegerSoftermax(
            *(self.scale, self.lowest, self.highest, self.fraction_bits, self.ceil, self.rounding == "nearest"),
            *(address(self.powers), self.least_difference, self.slice_width, self.sum_places, self.sum_limit),
            native_reciprocal(kernels, self.reciprocal, self.rounding),
            *(self.places, self.limit, self.step),
        )
        return tables, self.narrow

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.methods.softermax.triton import run

        return run(self, scores, mask)


def integer_call(spec: Softermax, constants: Constants) -> SoftermaxCall | None:
    """Tabulate golden's powers over all differences of a score code and an integer maximum.

    Returns:
        The call; None if products are too wide, or heads have different score scales.
    """
    lowest, highest = spec.score_range()
    scale = constants.real_scale
    bits = spec.input.fraction_bits
    # From the lowest score under the highest maximum, up to less than 1 above a maximum that is saturated.
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
    return SoftermaxCall(
        scale=scale,
        lowest=lowest,
        highest=highest,
        fraction_bits=bits,
        ceil=spec.integer_maximum == "ceil",
        rounding=spec.rounding,
        powers=torch.nn.functional.pad(powers, (1, 0)),
        least_difference=least,
        # A single slice of all keys gives one exact sum relative to the global maximum.
        slice_width=spec.slice_width if spec.maximum == "online" else (1 << 62),
        sum_places=spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits,
        sum_limit=spec.power_sum.max_code,
        reciprocal=spec.reciprocal_table,
        places=places,
        limit=spec.output.max_code,
        step=spec.output.resolution,
        narrow=product_bits <= LANE_BITS,
    )
