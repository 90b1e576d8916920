"""Golden of EXAQ by its native kernel."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softmaxkit.kernels.integers import WORD_BITS, HeadCalls, IntegerCall, KernelCall, native_reciprocal
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq, ExaqConstants


@dataclass(frozen=True, eq=False)
class ExaqCall(KernelCall):
    """EXAQ with 4, 8 or 16 levels.

    Attributes:
        scale, lowest, highest: real score scale, and the codes that scores saturate to.
        thresholds: ascending, the least difference to the highest code of each level but the lowest.
        exponentials: of the levels.
        reciprocal: of the sum.
        places: fraction bits that exponential * mantissa has more than the output, the reciprocal's exponent apart.
        limit: largest output code.
        step: of the output.
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
        from softmaxkit.methods.exaq.triton import run

        return run(self, scores, mask)


def integer_call(spec: Exaq, constants: ExaqConstants) -> IntegerCall | None:
    """Use the thresholds and exponentials of the constants.

    None where products are too wide, or for constants of another form than the spec's.
    """
    if constants.heads is None:
        return _of_head(spec, constants)
    calls = [_of_head(spec, constants.of_head(head)) for head in range(constants.heads)]
    made = tuple(call for call in calls if call is not None)
    return HeadCalls(made) if len(made) == len(calls) else None


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
    # Differences of codes are from `lowest - highest` to 0.
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
