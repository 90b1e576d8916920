"""Parameters of the exact-softmax integer kernel, native and on GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.integers import KernelCall, native_reciprocal
from softmaxkit.kernels.launch import address
from softmaxkit.methods.exact.golden import exponential, significand_and_shift
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.exact.spec import Exact

FARTHEST_BITS = 4
"""At distances of 2**4 or more from the maximum exponentials are 0: below the smallest normal, 2**-14 or more."""


@dataclass(frozen=True, eq=False)
class ExactCall(KernelCall):
    """Exact softmax in a small float.

    Attributes:
        mantissa_bits, smallest, largest: mantissa bits, smallest normal and largest number of the format.
        farthest: distance from the maximum at and beyond which exponentials are 0.
        exponentials: int32, for the distance 0 and all numbers of the format from `smallest` to `farthest`, as
            multiples of its smallest step.
        significands, shifts: int32, the same exponentials as `significand * 2**-(mantissa_bits + 1 + shift)`.
        slice_width: slice width of the online schedule; 0 for the three-pass schedule.
        reciprocal: table of the reciprocal of the sum.
    """

    name = "exact"

    mantissa_bits: int
    smallest: float
    largest: float
    farthest: float
    exponentials: Tensor
    significands: Tensor
    shifts: Tensor
    slice_width: int
    reciprocal: Reciprocal

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        tables = (address(table) for table in (self.exponentials, self.significands, self.shifts))
        reciprocal = native_reciprocal(kernels, self.reciprocal)
        sizes = (self.mantissa_bits, self.smallest, self.farthest, self.largest)
        return (kernels.IntegerExact(*sizes, *tables, self.slice_width, reciprocal),)

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.methods.exact.triton import run

        return run(self, scores, mask)


def integer_call(spec: Exact, constants: Constants) -> ExactCall:
    """Tabulate golden's exponentials over all distances from the maximum that the format can represent."""
    number = spec.format
    # In multiples of the smallest step: 0, then 2**mantissa_bits mantissas for each exponent.
    place = torch.arange((FARTHEST_BITS - number.min_exponent << number.mantissa_bits) + 1, device="cpu")
    mantissa = place & ((1 << number.mantissa_bits) - 1) | (1 << number.mantissa_bits)
    distance = torch.nn.functional.pad(mantissa << (place >> number.mantissa_bits), (1, 0))
    significands, shifts = significand_and_shift(spec, -distance)
    return ExactCall(
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
