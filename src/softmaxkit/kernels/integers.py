"""The integers of golden for rows of scores, by native kernels: tables in, real scores in, decoded probabilities out.

A kernel encodes scores as `Spec.encode` does, computes what `Spec.golden` computes, and decodes as `Spec.decode` does,
equal in every bit, row by row. Nonlinear functions are tables that golden has filled. Kernels and tables of a single
method lie in its folder.
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
from softmaxkit.kernels.launch import loaded, run, run_heads
from softmaxkit.tables import GUARD_BITS, Reciprocal

WORD_BITS, LANE_BITS = 60, 28
"""Bits that numbers may have where kernels shift and round them: in 64 bits, and in vectors of 32-bit lanes."""


@dataclass(frozen=True, eq=False)
class IntegerCall(ABC):
    """A call that computes golden of one spec and its constants by native kernels."""

    @property
    @abstractmethod
    def kernel(self) -> str:
        """Name of the native kernel."""

    def support(self, kind: str) -> Support | None:
        """Say what the kernels can: float32, and gradients straight-through, by the module around them."""
        return Support((torch.float32,), differentiable=True) if kind in ("native", "triton") else None

    @abstractmethod
    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, float32; NaN and infinities as in the integer mode of `SoftmaxModule`.

        Args:
            scores: floating, (..., keys), or (..., heads, queries, keys) where heads differ; in float32.
            mask: boolean, True where attended, broadcasts to the scores.

        Raises:
            RuntimeError: no kernels are built.
            TypeError, ValueError: scores or a mask of another kind, or that do not fit.
        """


@dataclass(frozen=True, eq=False)
class KernelCall(IntegerCall):
    """A call of one native kernel for all rows.

    Attributes:
        name: of the kernel, `integer_{name}_float32`.
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
        """Return the kernel's own arguments, tables of the native module."""

    @abstractmethod
    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Return decoded probabilities by Triton's kernel, of float32 scores."""


@dataclass(frozen=True, eq=False)
class HeadCalls(IntegerCall):
    """Heads with a call of their own.

    Attributes:
        calls: one a head, of the same kernel.
    """

    calls: tuple[IntegerCall, ...]

    @property
    def kernel(self) -> str:
        """Name of the native kernel."""
        return self.calls[0].kernel

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`, of scores (..., heads, queries, keys)."""
        return run_heads(self.calls, scores, mask)


@dataclass(frozen=True, eq=False)
class CodeTableCall(KernelCall):
    """Methods in which a probability depends only on its score code.

    Attributes:
        scales: real score scales, one or one a head.
        lowest, highest: codes that scores saturate to.
        probabilities: float32, (heads, codes), the lowest code first.
    """

    name = "code_table"

    scales: tuple[float, ...]
    lowest: int
    highest: int
    probabilities: Tensor

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerCall`; NaN only where a score is."""
        heads = len(self.scales)
        if heads > 1 and (scores.ndim < 3 or scores.shape[-3] != heads):
            raise ValueError(f"scores are (..., {heads}, queries, keys), not {tuple(scores.shape)}")
        return super().__call__(scores, mask)

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        table = self.probabilities.data_ptr()
        return (kernels.CodeTable(self.scales, self.lowest, self.highest, table),)

    def _run_on_gpu(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        from softmaxkit.kernels.triton.integers import run_code_table

        return run_code_table(self, scores, mask)


def native_reciprocal(kernels: ModuleType, reciprocal: Reciprocal, rounding: Rounding = "nearest") -> Any:
    """Return a reciprocal as the integer kernels compute it."""
    table = reciprocal.table
    sizes = (table.input_bits, table.rest_bits, GUARD_BITS)
    return kernels.Reciprocal(table.offsets, table.slopes, *sizes, rounding == "nearest")
