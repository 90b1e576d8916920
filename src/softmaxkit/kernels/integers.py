"""Integer mode by native kernels: real scores and tables in, decoded probabilities out, row by row.

A kernel encodes scores as `Spec.encode` does, computes what `Spec.golden` computes, and decodes as `Spec.decode` does,
with bit-identical results. Nonlinear functions are tables that golden has filled. Kernels and tables of a single
method are in that method's folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from softmaxkit.formats import Rounding
from softmaxkit.kernels.backends import Support, runs_on_gpu
from softmaxkit.kernels.launch import address, loaded, run, run_heads
from softmaxkit.tables import GUARD_BITS, Reciprocal

WORD_BITS, LANE_BITS = 60, 28
"""Maximum bits of an integer that kernels shift and round: in 64-bit words, and in 32-bit lanes of a vector."""


@dataclass(frozen=True, eq=False)
class IntegerCall(ABC):
    """A call that computes the golden model of one spec and its constants with native kernels."""

    @property
    @abstractmethod
    def kernel(self) -> str:
        """Name of the native kernel."""

    def support(self, kind: str) -> Support | None:
        """Return what the kernels support: float32; the enclosing module provides straight-through gradients."""
        return Support((torch.float32,), differentiable=True) if kind in ("native", "triton") else None

    @abstractmethod
    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, float32; NaN and infinities as in the integer mode of `SoftmaxModule`.

        Args:
            scores: floating, converted to float32, (..., keys), or (..., heads, queries, keys) if heads differ.
            mask: boolean, True where attended, broadcasts to the scores.

        Raises:
            RuntimeError: the native kernels are not built.
            TypeError: the scores are not on the CPU, or the mask is not boolean.
            ValueError: the scores or the mask have the wrong shape.
        """


@dataclass(frozen=True, eq=False)
class KernelCall(IntegerCall):
    """A call of one native kernel for all rows.

    Attributes:
        name: the native function is `integer_{name}_float32`.
    """

    name: ClassVar[str]

    @property
    def kernel(self) -> str:
        """Name of the native kernel."""
        return f"integer_{self.name}"

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`."""
        if runs_on_gpu(scores.device):
            return self._run_on_gpu(scores.float(), mask)
        return run(self.kernel, scores.float(), mask, False, *self._parameters(loaded()))

    @abstractmethod
    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        """Return the kernel's own arguments, such as table objects of the native module."""

    @abstractmethod
    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Return decoded probabilities of float32 scores, computed by the Triton kernel."""


@dataclass(frozen=True, eq=False)
class HeadCalls(IntegerCall):
    """A separate call for each head.

    Attributes:
        calls: one per head, all of the same kernel.
    """

    calls: tuple[IntegerCall, ...]

    @property
    def kernel(self) -> str:
        """Name of the native kernel."""
        return self.calls[0].kernel

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`; scores are (..., heads, queries, keys)."""
        return run_heads(self.calls, scores, mask)


@dataclass(frozen=True, eq=False)
class CodeTableCall(KernelCall):
    """A call for methods in which a probability depends only on its score code.

    Attributes:
        scales: real score scales, one for all heads or one per head.
        lowest: the code at which low scores saturate.
        highest: the code at which high scores saturate.
        probabilities: float32, (heads, codes), the lowest code first.
    """

    name = "code_table"

    scales: tuple[float, ...]
    lowest: int
    highest: int
    probabilities: Tensor

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`; NaN only where a score is NaN."""
        heads = len(self.scales)
        if heads > 1 and (scores.ndim < 3 or scores.shape[-3] != heads):
            raise ValueError(f"scores must be (..., {heads}, queries, keys), got {tuple(scores.shape)}")
        return super().__call__(scores, mask)

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        table = address(self.probabilities)
        return (kernels.CodeTable(self.scales, self.lowest, self.highest, table),)

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.kernels.triton.integers import run_code_table

        return run_code_table(self, scores, mask)


def native_reciprocal(kernels: ModuleType, reciprocal: Reciprocal, rounding: Rounding = "nearest") -> Any:
    """Return a reciprocal as an object of the native module, for the integer kernels."""
    table = reciprocal.table
    sizes = (table.input_bits, table.rest_bits, GUARD_BITS)
    return kernels.Reciprocal(table.offsets, table.slopes, *sizes, rounding == "nearest")
