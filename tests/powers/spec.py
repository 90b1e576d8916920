"""The spec of powers, and its constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softmaxkit.formats import Array, Fixed
from softmaxkit.masks import broadcast_mask, check_row
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.spec import Dataflow, Spec, Storage, Training
from softmaxkit.rounding import shift_right
from softmaxkit.tables import PiecewiseLinear, power_of_two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from powers.module import PowersModule


@dataclass(frozen=True)
class PowersConstants(Constants):
    """The integers of one layer.

    Attributes:
        scale: see `Constants`.
        offset: code of the offset, in steps of the score.
    """

    offset: Any


@dataclass(frozen=True)
class Powers(Spec):
    """`2**min(score - offset, 0)`: each element on its own.

    Args:
        fraction_bits: of a score code, which has 8 bits.
    """

    method: ClassVar[str] = "powers"
    title: ClassVar[str] = "Powers"
    summary: ClassVar[str] = "powers of two with one offset"
    source: ClassVar[str] = "tests"
    trained: ClassVar[Training] = "from scratch"
    dataflow: ClassVar[Dataflow] = "element"
    storages: ClassVar[tuple[Storage, ...]] = ("flip-flops", "latches")
    constants_class: ClassVar[type[Constants]] = PowersConstants
    constants_fields: ClassVar[tuple[str, ...]] = ("fraction_bits",)

    parameters: ClassVar[tuple[str, ...]] = ("offset",)

    fraction_bits: int = 3

    def __post_init__(self) -> None:
        self._check_fields()

    @property
    def score_bits(self) -> int:
        return 8

    @property
    def output(self) -> Fixed:
        return Fixed(8, 7, signed=False)

    @property
    def table(self) -> PiecewiseLinear:
        """2**x for a fraction x of the score."""
        return power_of_two(1 << self.fraction_bits, self.fraction_bits, self.output.fraction_bits)

    def start(self, keys: int) -> dict[str, Any]:
        return {"offset": float(np.round(np.log2(max(keys, 2)) * 2**self.fraction_bits) / 2**self.fraction_bits)}

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        values, attended = check_row(scores, mask)
        return np.where(attended, np.exp2(np.minimum(values - self.offset(parameters), 0)), 0.0)

    def offset(self, parameters: dict[str, Any]) -> float:
        self.check_parameters(parameters)
        offset = parameters.get("offset", 4.0)
        return float(getattr(offset, "detach", lambda: offset)())

    def constants(self, **parameters: Any) -> PowersConstants:
        step = 2.0**-self.fraction_bits
        return PowersConstants(encode_scale(step), round(self.offset(parameters) / step), form=self.constants_form)

    def examples(self) -> list[Constants]:
        return [self.constants(offset=offset) for offset in (4.0, 1.5, -2.0)]

    def _golden(self, codes: Array, mask: Array | None, constants: PowersConstants) -> Array:
        from array_api_compat import array_namespace

        xp = array_namespace(codes)
        difference = xp.clip(codes - constants.offset, None, 0)
        power = self.table(difference & ((1 << self.fraction_bits) - 1))
        outputs = shift_right(power, -(difference >> self.fraction_bits))
        return xp.where(broadcast_mask(codes, mask), outputs, xp.zeros_like(outputs))

    def _decode(self, codes: Array, constants: Any) -> Array:
        return self.output.decode(codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound it by half a step of the table, shifted, half a step of the output, and the rounding of the offset."""
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        step = 2.0**-self.fraction_bits
        offset_error = np.exp2(abs(self.offset(parameters) - round(self.offset(parameters) / step) * step)) - 1
        return np.where(truth > 0, truth * offset_error + 1.25 * self.output.resolution, 0.0)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> PowersModule:
        from powers.module import PowersModule

        return PowersModule(self, heads, mode, self.offset(parameters))
