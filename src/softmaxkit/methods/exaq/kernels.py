"""Parameters of the EXAQ integer kernel, native and on GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softmaxkit.kernels.integers import WORD_BITS, HeadCalls, IntegerCall, KernelCall, native_reciprocal
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.constants import ExaqConstants
    from softmaxkit.methods.exaq.spec import Exaq


@dataclass(frozen=True, eq=False)
class ExaqCall(KernelCall):
    """EXAQ with 4, 8 or 16 levels.

    Attributes:
        scale, lowest, highest: real score scale, and the codes at which scores saturate.
        thresholds: ascending; for each level except the lowest, its least difference from the highest code.
        exponentials: codes of the exponentials of the levels.
        reciprocal: table of the reciprocal of the sum.
        places: fraction bits of exponential * mantissa minus those of the output, without the reciprocal's exponent.
        limit: largest output code.
        step: resolution of the output.
    """

    name = "exaq"

    scale: float
    lowest: int
    highest: int
    thresholds: tuple[int, ...]
    exponentials: tuple[int, ...]
    reciprocal: Reciprocal
    places: int
    limit: int
    step: float

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        scores = (self.scale, self.lowest, self.highest)
        tables = (self.thresholds, self.exponentials, native_reciprocal(kernels, self.reciprocal))
        return (kernels.IntegerExaq(*scores, *tables, self.places, self.limit, self.step),)

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.kernels.triton.quotients import Quotients, run_quotients

        of_scores = (self.scale, self.lowest, self.highest)
        tables = (self.thresholds, self.exponentials, self.reciprocal)
        return run_quotients(self, Quotients(*of_scores, *tables, self.places, self.limit, self.step), scores, mask)


def integer_call(spec: Exaq, constants: ExaqConstants) -> IntegerCall | None:
    """Build the kernel call from the thresholds and exponentials of the constants.

    Returns:
        The call; None if products are too wide, or the constants do not match the number of levels of the spec.
    """
    if constants.heads is None:
        return _of_head(spec, constants)
    calls = [_of_head(spec, constants.of_head(head)) for head in range(constants.heads)]
    available = tuple(call for call in calls if call is not None)
    return HeadCalls(available) if len(available) == len(calls) else None


def _of_head(spec: Exaq, constants: ExaqConstants) -> ExaqCall | None:
    scale = constants.real_scale
    form = (len(constants.thresholds) + 1, len(constants.exponentials))
    if isinstance(scale, tuple) or form != (spec.levels, spec.levels):
        return None
    lowest, highest = spec.score_range()
    places = spec.reciprocal.fraction_bits - spec.output.fraction_bits
    product_bits = max(constants.exponentials).bit_length() + spec.reciprocal.bits + max(-places, 0)
    if product_bits > WORD_BITS:
        return None
    # Differences of codes range from `lowest - highest` to 0.
    reachable = (min(max(threshold, lowest - highest), 1) for threshold in constants.thresholds)
    return ExaqCall(
        scale=scale,
        lowest=lowest,
        highest=highest,
        thresholds=tuple(sorted(reachable)),
        exponentials=constants.exponentials,
        reciprocal=spec.reciprocal_table,
        places=places,
        limit=spec.output.max_code,
        step=spec.output.resolution,
    )
