"""Parameters of the IndexSoftmax integer kernel, which exists only on CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from softmaxkit.kernels.backends import Support
from softmaxkit.kernels.integers import IntegerCall, native_reciprocal
from softmaxkit.kernels.launch import loaded, run
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.index.spec import Index


@dataclass(frozen=True, eq=False)
class IndexCall(IntegerCall):
    """IndexSoftmax.

    Attributes:
        scale, lowest, highest: real score scale, and the codes at which scores saturate.
        levels: level of each distance from the highest code, up to the least distance whose entry is 0.
        entries: table entries by level.
        reciprocal: table of the reciprocal of the sum.
        fraction_bits: fraction bits of the reciprocal's mantissa.
        one: largest output code.
    """

    kernel: ClassVar[str] = "integer_index"

    scale: float
    lowest: int
    highest: int
    levels: tuple[int, ...]
    entries: tuple[int, ...]
    reciprocal: Reciprocal
    fraction_bits: int
    one: int

    def support(self, kind: str) -> Support | None:
        """Return what the kernel supports: float32 on the CPU."""
        return super().support(kind) if kind == "native" else None

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`."""
        kernels = loaded()
        tables = kernels.IntegerIndex(
            *(self.scale, self.lowest, self.highest, self.levels, self.entries),
            *(native_reciprocal(kernels, self.reciprocal), self.fraction_bits, self.one),
        )
        return run(self.kernel, scores.float(), mask, False, tables)


def integer_call(spec: Index, constants: Constants) -> IndexCall | None:
    """Build the kernel call from the table of the spec; None if heads differ in their scales."""
    scale = constants.real_scale
    if isinstance(scale, tuple):
        return None
    lowest, highest = spec.score_range()
    return IndexCall(
        scale=scale,
        lowest=lowest,
        highest=highest,
        levels=spec.levels_by_distance,
        entries=spec.exponentials,
        reciprocal=spec.reciprocal_table,
        fraction_bits=spec.reciprocal.fraction_bits,
        one=(1 << spec.output_bits) - 1,
    )
