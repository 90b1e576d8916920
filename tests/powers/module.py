"""Powers as a torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softmaxkit.kernels.integers import CodeTableCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.code_table import code_table_call
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.module import SoftmaxModule, at_least_float32

if TYPE_CHECKING:
    from powers.spec import Powers


class PowersModule(SoftmaxModule):
    """`2**min(score - offset, 0)` with a learned offset."""

    spec: Powers

    def __init__(self, spec: Powers, heads: int | None, mode: str, offset: float) -> None:
        super().__init__(spec, heads, mode)
        self.offset = nn.Parameter(torch.tensor(offset))

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        exponent = torch.clamp(scores - self.offset.to(scores.dtype), max=0.0)
        return torch.where(attended, torch.exp2(exponent), 0.0)

    def row_call(self, device: torch.device) -> RowCall:
        return RowCall("exponential", (self.offset.float(), 1.0, 2.0))

    def integer_call(self, constants: Any) -> CodeTableCall:
        return code_table_call(self.spec, constants)

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        return scores.isnan() & attended

    def build_constants(self) -> Constants:
        return self.spec.constants(offset=self.offset.item(), **self.calibration)

    def learned(self, numbers: Any) -> dict[str, Tensor]:
        return {key: at_least_float32(value) for key, value in numbers.items()}
