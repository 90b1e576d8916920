"""Golden of Softermax by its native kernel."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.formats import Rounding
from softmaxkit.kernels.integers import LANE_BITS, WORD_BITS, KernelCall, native_reciprocal
from softmaxkit.methods.softermax.golden import power_of_two
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.softermax.spec import Softermax


@dataclass(frozen=True, eq=False)
class SoftermaxCall(KernelCall):
    """Softermax, slice by slice.

    Attributes:
        scale, lowest, highest: real score scale, and the codes that scores saturate to.
        fraction_bits: of the input.
        ceil: are whole maxima rounded up?
        rounding: of all the rest.
        powers: int32, a 0, then the powers of scores less a whole maximum, for codes from `least_difference` on.
        least_difference: the code of the first power.
        slice_width: positions that are summed together.
        sum_places: fraction bits that powers have more than their sum.
        sum_limit: largest code of the sum.
        reciprocal: of the sum.
        places: fraction bits that power * mantissa has more than the output, the reciprocal's exponent apart.
        limit: largest output code.
        step: of the output.
        narrow: do products fit 32-bit lanes?
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
            *(self.powers.data_ptr(), self.least_difference, self.slice_width, self.sum_places, self.sum_limit),
            native_reciprocal(kernels, self.reciprocal, self.rounding),
            *(self.places, self.limit, self.step),
        )
        return tables, self.narrow

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.methods.softermax.triton import run

        return run(self, scores, mask)


def integer_call(spec: Softermax, constants: Constants) -> SoftermaxCall | None:
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
    return SoftermaxCall(
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
