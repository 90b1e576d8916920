"""The torch module of ConSmax, with learned beta and gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.code_table import code_table_call
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.log_sums import LogSumCalibrator
from softmaxkit.methods.base.metadata import DEFAULT_KEYS
from softmaxkit.methods.base.module import SoftmaxModule, at_least_float32
from softmaxkit.methods.base.numbers import Real, learned_parameter, real_values
from softmaxkit.methods.consmax.calibrate import ConSmaxCalibrator
from softmaxkit.methods.consmax.constants import ConSmaxConstants
from softmaxkit.methods.consmax.parameters import beta_and_gamma

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.spec import ConSmax


class ConSmaxModule(SoftmaxModule):
    """Computes `exp(s - beta) / gamma`, clamped at the ceiling, or in integer mode its tables.

    Where the clamp is active, scores, beta and gamma get no gradient. The integer mode has the gradient of the float
    form at scores clamped to the range of their codes, and none where the output saturates.

    Args:
        spec: the spec.
        heads: size of axis -3 of the scores, or None.
        mode: "float", "integer" or "fused".
        beta: initial value, one number or one per head; the default is the start value for 256 keys.
        gamma: likewise, positive.
        scale: real value of one step of the score code, from calibration; with tables="shift" only ln2/16.
        largest: the largest probability observed in calibration.

    Attributes:
        beta: learned; shape (heads,), or () if shared.
        log_gamma: learned in place of gamma, to keep it positive; same shape. Exclude both from weight decay.
        homotopy: weight of the learned offset in the float form; the rest of the weight goes to the row's log-sum.

    Raises:
        ValueError: beta or gamma has the wrong shape, is not finite, or gamma is not positive.
    """

    spec: ConSmax
    calibrated_numbers: ClassVar[tuple[str, ...]] = ("scale", "largest")

    def __init__(
        self,
        spec: ConSmax,
        heads: int | None = None,
        mode: str = "float",
        beta: Real | None = None,
        gamma: Real | None = None,
        scale: float | Sequence[float] | None = None,
        largest: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        shape = (heads,) if heads is not None and spec.share == "head" else ()
        initial = {
            name: real_values("beta and gamma", value, shape)
            for name, value in (("beta", beta), ("gamma", gamma))
            if value is not None
        }
        start = beta_and_gamma(spec, initial, DEFAULT_KEYS)
        self.homotopy = 1.0
        self.beta = learned_parameter(start[0], shape, beta)
        self.log_gamma = learned_parameter(np.log(start[1]), shape, gamma)
        calibration = {"scale": scale, "largest": largest}
        self.set_calibration({key: value for key, value in calibration.items() if value is not None})

    @property
    def per_head(self) -> bool:
        """Whether each head has its own beta and gamma."""
        return self.beta.ndim == 1

    @property
    def gamma(self) -> Tensor:
        """Gamma, positive; shape of beta."""
        return self.log_gamma.exp()

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the clamped exponential."""
        return self._clamped(scores, attended, self.spec.ceiling)

    @property
    def offset(self) -> Tensor:
        """The offset subtracted from the scores, beta + log gamma; float32, shape of beta."""
        return self._offset()

    def _offset(self, **learned: Tensor) -> Tensor:
        beta, log_gamma = learned.get("beta", self.beta), learned.get("log_gamma", self.log_gamma)
        return beta.float() + log_gamma.float()

    def row_call(self, device: torch.device) -> RowCall | None:
        """Return the kernel of the clamped exponential; None while blended with exact softmax (`homotopy` < 1)."""
        return None if self.homotopy < 1 else RowCall("exponential", (self.offset, self.spec.ceiling, math.e))

    def attention_call(self, **learned: Tensor) -> AttentionCall | None:
        """Return attention with exponentials and no sum; None while blended with exact softmax (`homotopy` < 1)."""
        return None if self.homotopy < 1 else AttentionCall.by_exponential(self._offset(**learned), self.spec.ceiling)

    def _clamped(self, scores: Tensor, attended: Tensor, ceiling: float | Tensor) -> Tensor:
        offset = self.beta.to(scores.dtype) + self.log_gamma.to(scores.dtype)
        offset = offset[:, None, None] if self.per_head else offset
        if self.homotopy < 1:
            row = torch.where(attended, scores, torch.finfo(scores.dtype).min).logsumexp(dim=-1, keepdim=True)
            offset = (1 - self.homotopy) * row + self.homotopy * offset
        exponent = scores - offset
        limit = torch.as_tensor(ceiling, dtype=scores.dtype, device=scores.device).log()
        return torch.where(attended, torch.exp(torch.clamp(exponent, max=limit)), 0.0)

    def surrogate_call(self, scores: Tensor) -> RowCall | None:
        """Return the kernel of the exponential, clamped where outputs saturate; None if heads differ in where."""
        call, ceilings = super().surrogate_call(scores), self._ceilings
        if call is None or not bool((ceilings == ceilings[0]).all()):
            return None
        return RowCall(call.kernel, (self.offset, ceilings[0].item(), math.e))

    def surrogate_by_torch(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the float form, clamped where outputs saturate."""
        return self._clamped(scores, attended, self._ceilings if self.per_head else self._ceilings.item())

    @property
    def _ceilings(self) -> Tensor:
        """The largest results of the integer form, (heads, 1, 1); (1, 1, 1) if heads share their parameters."""
        constants = self.constants
        assert isinstance(constants, ConSmaxConstants)
        largest = self.spec.decode(torch.tensor(constants.limit).reshape(-1, 1, 1), constants)
        ceilings: Tensor = largest.clamp(max=self.spec.ceiling)
        return ceilings

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `beta` and `log_gamma` from the tensors `beta` and `gamma`, if present."""
        tensors = {"beta": numbers.get("beta"), "log_gamma": numbers["gamma"].log() if "gamma" in numbers else None}
        return {key: at_least_float32(x).expand(self.beta.shape) for key, x in tensors.items() if x is not None}

    def set_homotopy(self, share: float) -> None:
        """Blend the float form from exact softmax (0) to ConSmax (1): `exp(s - (1 - share)*lse - share*offset)`."""
        self.homotopy = share

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return a mask of what becomes NaN: only NaN itself, since elements are independent."""
        return scores.isnan() & attended

    def build_constants(self) -> Constants:
        """Build the constants, stacked by head if beta and gamma are per head."""
        beta, gamma = self.beta.detach().double(), self.log_gamma.detach().double().exp()
        if not self.per_head:
            return self.spec.constants(beta=beta.item(), gamma=gamma.item(), **self.calibration)
        learned = [{"beta": beta[head].item(), "gamma": gamma[head].item()} for head in range(len(beta))]
        return ConSmaxConstants.stack(
            [self.spec.constants(**numbers, **self.calibration_of(head)) for head, numbers in enumerate(learned)]
        )

    def integer_call(self, constants: Any) -> IntegerCall:
        """Return a table of the probability of every score code."""
        return code_table_call(self.spec, constants)

    def calibrator(self) -> ConSmaxCalibrator:
        """Return a calibrator of the score scale and the output scale."""
        return ConSmaxCalibrator(self)

    def converter(self) -> LogSumCalibrator:
        """Return a calibrator that keeps beta and sets gamma so that 1/C is the geometric mean of softmax's sums."""
        return LogSumCalibrator(self, lambda mean: {"log_gamma": mean - self.beta.detach()})
