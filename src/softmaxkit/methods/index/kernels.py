"""Parameters of the IndexSoftmax integer kernel, native and on GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softmaxkit.kernels.integers import KernelCall, native_reciprocal
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.index.spec import Index


@dataclass(frozen=True, eq=False)
class IndexCall(KernelCall):
    """IndexSoftmax.

    Attributes:
        scale, lowest, highest: real score scale, and the codes at which scores saturate.
        levels: level of each distance from the highest code, up to the least distance whose entry is 0.
        entries: table entries by level.
        reciprocal: table of the reciprocal of the sum.
        fraction_bits: fraction bits of the reciprocal's mantissa.
        one: largest output code.
    """

    name = "index"

    scale: float
    lowest: int
    highest: int
    levels: tuple[int, ...]
    entries: tuple[int, ...]
    reciprocal: Reciprocal
    fraction_bits: int
    one: int

    @cached_property
    def entries_by_distance(self) -> list[int]:
        """Table entries by distance from the highest code."""
        return [self.entries[level] for level in self.levels]

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        scores = (self.scale, self.lowest, self.highest)
        reciprocal = native_reciprocal(kernels, self.reciprocal)
        return (kernels.IntegerIndex(*scores, self.levels, self.entries, reciprocal, self.fraction_bits, self.one),)

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.kernels.triton.quotients import Quotients, run_quotients

        of_scores = (self.scale, self.lowest, self.highest)
        tables = ((), self.entries_by_distance, self.reciprocal)
        return run_quotients(self, Quotients(*of_scores, *tables, self.fraction_bits, self.one, None), scores, mask)


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
