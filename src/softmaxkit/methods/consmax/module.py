"""ConSmax as a torch module, with its learned beta and gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.code_table import code_table_call
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.log_sums import LogSumCalibrator
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.consmax.calibrate import ConSmaxCalibrator
from softmaxkit.methods.consmax.constants import ConSmaxConstants
from softmaxkit.methods.consmax.spec import DEFAULT_KEYS

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.spec import ConSmax

RealPerHead = float | Sequence[float] | Tensor


class ConSmaxModule(SoftmaxModule):
    """`exp(s - beta) / gamma`, clamped at the ceiling; in integer mode the tables.

    Where the clamp holds no gradient passes, to scores, beta or gamma. Gradients of the integer mode are those of the
    float form at scores clamped to their codes, none where the output saturates.

    Args:
        spec: the method.
        heads: size of the axis -3 of the scores, or None.
        mode: "float" or "integer".
        beta: start value, one or one a head; left out, that for 256 keys.
        gamma: likewise, positive.
        scale: real value of one step of the score code, from calibration; with tables="shift" only ln2/16.
        largest: the largest probability given, from calibration.

    Attributes:
        beta: learned; shape (heads,), or () where shared.
        log_gamma: learned, so that gamma stays positive; same shape. Keep both out of weight decay.
        homotopy: in the float form the offset is so much that of ConSmax, and for the rest the row's own log-sum.
    """

    spec: ConSmax
    calibrated_numbers: ClassVar[tuple[str, ...]] = ("scale", "largest")

    def __init__(
        self,
        spec: ConSmax,
        heads: int | None = None,
        mode: str = "float",
        beta: RealPerHead | None = None,
        gamma: RealPerHead | None = None,
        scale: float | Sequence[float] | None = None,
        largest: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        start = spec.start(DEFAULT_KEYS)
        beta, gamma = start["beta"] if beta is None else beta, start["gamma"] if gamma is None else gamma
        shape = (heads,) if heads is not None and spec.share == "head" else ()
        values = _real(beta, shape), _real(gamma, shape)
        if not (values[0].isfinite().all() and values[1].isfinite().all() and (values[1] > 0).all()):
            raise ValueError(f"ConSmax takes a finite beta and a positive gamma, not {beta} and {gamma}")
        self.homotopy = 1.0
        self.beta = nn.Parameter(values[0].float())
        self.log_gamma = nn.Parameter(values[1].log().float())
        given = {"scale": scale, "largest": largest}
        self.set_calibration({key: value for key, value in given.items() if value is not None})

    @property
    def per_head(self) -> bool:
        """Is there a beta and gamma for each head?"""
        return self.beta.ndim == 1

    @property
    def gamma(self) -> Tensor:
        """Gamma, positive; the shape of beta."""
        return self.log_gamma.exp()

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the clamped exponential."""
        return self._clamped(scores, attended, self.spec.ceiling)

    @property
    def offset(self) -> Tensor:
        """What is taken from the scores, beta + log gamma; float32, the shape of beta."""
        return self.beta.float() + self.log_gamma.float()

    def row_call(self, device: torch.device) -> RowCall | None:
        """Return the kernel of the exponential; None on the way from exact softmax, which has none."""
        return None if self.homotopy < 1 else RowCall("exponential", (self.offset, self.spec.ceiling, math.e))

    def attention_call(self) -> AttentionCall | None:
        """Return attention of exponentials without a sum; None on the way from exact softmax."""
        return None if self.homotopy < 1 else AttentionCall.by_exponential(self.offset, self.spec.ceiling)

    def _clamped(self, scores: Tensor, attended: Tensor, ceiling: float | Tensor) -> Tensor:
        offset = self.beta.to(scores.dtype) + self.log_gamma.to(scores.dtype)
        offset = offset[:, None, None] if self.per_head else offset
        if self.homotopy < 1:
            row = torch.where(attended, scores, torch.finfo(scores.dtype).min).logsumexp(dim=-1, keepdim=True)
            offset = (1 - self.homotopy) * row + self.homotopy * offset
        exponent = scores - offset
        limit = torch.as_tensor(ceiling, dtype=scores.dtype, device=scores.device).log()
        return torch.where(attended, torch.exp(torch.clamp(exponent, max=limit)), 0.0)

    def surrogate(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the float form, clamped where codes and outputs saturate."""
        constants = self.constants
        assert isinstance(constants, ConSmaxConstants)
        largest = self.spec.decode(torch.tensor(constants.limit).reshape(-1, 1, 1), constants)
        ceiling = largest.clamp(max=self.spec.ceiling)
        return self._clamped(self.clamp_to_codes(scores), attended, ceiling if self.per_head else ceiling.item())

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return beta and log gamma of beta and gamma."""
        given = {"beta": numbers.get("beta"), "log_gamma": numbers["gamma"].log() if "gamma" in numbers else None}
        return {key: x.float().expand(self.beta.shape) for key, x in given.items() if x is not None}

    def set_homotopy(self, share: float) -> None:
        """Let the float form go from exact softmax, 0, to ConSmax, 1: `exp(s - (1 - share)*lse - share*offset)`."""
        self.homotopy = share

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return what becomes NaN: NaN itself, since no element knows of another."""
        return scores.isnan() & attended

    def build_constants(self) -> Constants:
        """Build the constants of each head, or of the layer."""
        beta, gamma = self.beta.detach().double(), self.log_gamma.detach().double().exp()
        if not self.per_head:
            return self.spec.constants(beta=beta.item(), gamma=gamma.item(), **self.calibration)
        learned = [{"beta": beta[head].item(), "gamma": gamma[head].item()} for head in range(len(beta))]
        return ConSmaxConstants.stack(
            [self.spec.constants(**numbers, **self.calibration_of(head)) for head, numbers in enumerate(learned)]
        )

    def integer_call(self, constants: Any) -> IntegerCall:
        """Return the table of all score codes."""
        return code_table_call(self.spec, constants)

    def calibrator(self) -> ConSmaxCalibrator:
        """Return a calibrator of the score scale and the output range."""
        return ConSmaxCalibrator(self)

    def converter(self) -> LogSumCalibrator:
        """Return what sets gamma to the geometric mean of exact softmax's denominators, beta being kept."""
        return LogSumCalibrator(self, lambda mean: {"log_gamma": mean - self.beta.detach()})


def _real(value: RealPerHead, shape: tuple[int, ...]) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float64).detach()
    if numbers.ndim and numbers.shape != shape:
        raise ValueError(f"beta and gamma are numbers, or of shape {shape}, not {tuple(numbers.shape)}")
    return numbers.expand(shape).clone()
