"""Base class of the torch modules: masks, precision, modes, and the choice of kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, check_tensors
from softmaxkit.kernels.backends import Choice, is_traced, only_torch, pick, transform_at_work
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.launch import untraced
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.calibrated import Calibrated, Calibrator
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.rows import attended_keys, check_attended
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.base.stripes import in_stripes
from softmaxkit.tables import per_head

Mode = Literal["float", "integer", "fused"]


class SoftmaxModule(Calibrated, ABC):
    """Normalises attention scores along one dimension.

    "float" mode computes the differentiable form of the method. "integer" mode computes exactly the integers of
    `Spec.golden`; its gradient is that of the float form, and zero where scores or results saturate (straight-through).
    "fused" mode is the float form too, but attention layers run it as `softmaxkit.attention` does where possible,
    without materialising the probabilities, and except for softmax with 8-bit products. Computation is in float32, or
    in float64 for float64 scores; the result has the dtype of the scores.

    Args:
        spec: the spec.
        heads: size of axis -3 of the scores if the method has parameters per head, else None.
        mode: "float", "integer" or "fused".
    """

    def __init__(self, spec: Spec, heads: int | None, mode: str) -> None:
        super().__init__(spec, heads)
        self.mode = mode
        self._integer_call: tuple[Constants, IntegerCall | None] | None = None

    @property
    def mode(self) -> str:
        """The mode: "float", "integer" or "fused"; can be assigned."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be 'float', 'integer' or 'fused', got {mode!r}")
        self._mode = mode

    def extra_repr(self) -> str:
        """Describe the module in the printed form of a model."""
        return f"{self.spec!r}, heads={self.heads}, mode={self.mode!r}"

    # Implemented by each method.

    @abstractmethod
    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the differentiable form; scores are finite or NaN, and 0 where not attended."""

    @property
    def softmax_base(self) -> float | None:
        """Base of the float form if that is exactly softmax to some base; otherwise None."""
        return None

    def row_call(self, device: torch.device) -> RowCall | None:
        """Return the kernel that runs the float form on rows on `device`; None if there is none."""
        return None

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel that runs the integer form with `constants`; None if this form has none."""
        return None

    def attention_call(self, **learned: Tensor) -> AttentionCall | None:
        """Return how fused attention with 8-bit products computes the weights; None if there is no such kernel.

        `learned` are tensors that replace parameters of the module, by name, as `learned` returns them.
        """
        return None

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return a mask of what becomes NaN: rows with an attended NaN or +inf, as in `torch.softmax`."""
        return ((scores.isnan() | (scores == torch.inf)) & attended).any(dim=-1, keepdim=True)

    def surrogate(self, scores: Tensor, attended: Tensor | None, call: RowCall | None, saturated: bool) -> Tensor:
        """Compute the float form that supplies the gradient of the integer form.

        Args:
            scores: finite or NaN, and 0 where not attended; for a kernel, any but -inf.
            attended: boolean, broadcasts to the scores; without a kernel, in their shape.
            call: the kernel, as `surrogate_call` returns it.
            saturated: whether a score may be beyond its codes.
        """
        scores = self.clamp_to_codes(scores) if saturated else scores
        if call is not None:
            return call.run(scores, attended)
        assert attended is not None
        return self.surrogate_by_torch(scores, attended)

    def surrogate_call(self, scores: Tensor) -> RowCall | None:
        """Return the kernel of `surrogate`; None if none runs on these scores."""
        call, choice = self.choose(scores)
        return call if choice.kernel else None

    def surrogate_by_torch(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute `surrogate` of scores within their codes without a kernel."""
        return self.float_forward(scores, attended)

    def calibrator(self) -> Calibrator | None:
        """Return a new calibrator; None if the method has nothing to calibrate."""
        return None

    def converter(self) -> Calibrator | None:
        """Return a calibrator that fits learned parameters to exact softmax; None if nothing is learned."""
        return None

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Map parameters passed as tensors to this module's learned parameters, by name, so gradients reach them."""
        return {}

    def set_homotopy(self, share: float) -> None:
        """Blend the float form from exact softmax (0) to the method (1); no effect in methods without a blend."""

    # Forward.

    def forward(self, scores: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
        """Normalise scores.

        A row with an attended NaN or +inf becomes NaN as in `torch.softmax`; in element-wise methods only the NaN
        element does. A score of -inf is masked; masked positions give 0.

        Args:
            scores: floating-point, any shape; (..., heads, queries, keys) if the module has parameters per head.
            mask: boolean, True where attended, broadcasts to the scores.
            dim: the dimension of the keys.

        Returns:
            Probabilities, with the shape and dtype of the scores.

        Raises:
            TypeError: the scores are no floating-point tensor, or the mask is not a tensor.
            ValueError: the mask is not boolean, does not broadcast or is on another device; axis -3 is not the module's
                number of heads; or the method is not calibrated yet.
        """
        check_tensors(scores=scores)
        if not scores.is_floating_point():
            raise TypeError(f"scores must be floating-point, got {scores.dtype}; pass integer codes to spec.golden")
        if scores.ndim < 1:
            raise ValueError("scores must have the shape (..., keys), got a single number")
        check_attended(scores, mask)
        if dim not in (-1, scores.ndim - 1):
            attended = attended_keys(scores, mask)
            return self.forward(scores.movedim(dim, -1), attended.movedim(dim, -1)).movedim(-1, dim)
        if self.per_head and (scores.ndim < 3 or scores.shape[-3] != self.heads):
            raise ValueError(
                f"this module has {self.heads} heads, so scores must be (..., {self.heads}, queries, keys), "
                f"got {tuple(scores.shape)}"
            )
        if self._calibrator is not None:
            return self.observe(scores, mask)
        if self.mode == "integer":
            if torch.compiler.is_exporting() or is_traced():
                raise RuntimeError('the integer mode cannot be exported or traced; do so in mode="float"')
            result: Tensor = self._integer_forward(at_least_float32(scores), mask)
            return result.to(scores.dtype)
        call, choice = self.choose(scores)
        if call is not None and choice.kernel:
            return call.run(scores, mask)
        if self._is_trained(scores):
            return self._by_torch(scores, mask)
        mask = None if mask is None else mask.expand(scores.shape)
        return in_stripes(lambda *rows: (self._by_torch(*rows),), scores, mask, without=self._heads_axis)[0]

    def _by_torch(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        attended = attended_keys(scores, mask)
        return self.float_forward(_zero_masked(at_least_float32(scores), attended), attended).to(scores.dtype)

    @property
    def _heads_axis(self) -> int | None:
        """The axis of the scores that cannot be split, if there is one."""
        return -3 if self.per_head else None

    def _is_trained(self, scores: Tensor) -> bool:
        """Return whether the result requires gradients."""
        learned = self.learned_tensors().values()
        return torch.is_grad_enabled() and any(x.requires_grad for x in (scores, *learned))

    def observe(self, scores: Tensor, mask: Tensor | None, values: Tensor | None = None) -> Tensor:
        """Pass scores, and in attention the values, (..., keys, channels), to the active calibrator.

        Returns:
            Probabilities with which the model continues, with the shape and dtype of the scores.
        """
        assert self._calibrator is not None
        attended = attended_keys(scores, mask)
        with torch.no_grad():
            filled = _zero_masked(at_least_float32(scores), attended)
            return self._calibrator.observe(filled, attended, values).to(scores.dtype)

    def choose(self, scores: Tensor) -> tuple[RowCall | None, Choice]:
        """Return the kernel of the float form, and the back end that would run it on these scores."""
        call = self.row_call(scores.device)
        if call is None:
            return None, only_torch(scores.device, f"{self.spec.title} has no kernel for this form")
        return call, pick(call, scores)

    def choose_integers(self, scores: Tensor) -> tuple[IntegerCall | None, Choice]:
        """Return the kernel of the integer form, and the back end that would run it on these scores."""
        constants = self.constants
        if self._integer_call is None or self._integer_call[0] is not constants:
            self._integer_call = (constants, self.integer_call(constants))
        call = self._integer_call[1]
        if call is None:
            return None, only_torch(scores.device, f"{self.spec.title} has no kernel for the integers of this form")
        with torch.no_grad():  # the gradient comes from the float form
            return call, pick(call, scores)

    @untraced
    def _integer_forward(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if transform := transform_at_work():
            raise RuntimeError(
                f"the integer mode does not support {transform} (vmap, grad, jvp), which need differentiable torch "
                'operations; use mode="float" there, or loss.backward() for its straight-through gradient'
            )
        call, choice = self.choose_integers(scores)
        kernel = call if choice.kernel else None
        is_trained = self._is_trained(scores)
        if kernel is not None and not is_trained:
            return kernel(scores, mask)
        float_call = self.surrogate_call(scores) if is_trained else None
        reach = torch.aminmax(scores.detach()) if kernel is not None and scores.is_cpu and scores.numel() else None
        if float_call is not None and reach and reach[0] > -torch.inf:
            attended, saturated = mask, not self._are_within_codes(*reach)  # the kernels mask by themselves
        else:
            attended, saturated = attended_keys(scores, mask), True
            scores = _zero_masked(scores, attended)
        with torch.no_grad():
            if kernel is None:
                rows = scores, attended
                (values,) = in_stripes(lambda *x: (self.decoded_golden(*x),), *rows, without=self._heads_axis)
            else:
                values = kernel(scores, attended)
        if not is_trained:
            return values
        return _StraightThrough.apply(self.surrogate(scores, attended, float_call, saturated), values)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]

    def decoded_golden(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Encode the scores, run the golden model, decode; NaN as defined by `nan_reach`."""
        constants = self.constants
        codes = self.spec.golden(self.spec.encode(scores, constants), attended, constants)
        values = self.spec.decode(codes, constants).to(scores.dtype)
        return torch.where(self.nan_reach(scores, attended) & attended, torch.nan, values)

    def _are_within_codes(self, least: Tensor, greatest: Tensor) -> bool:
        """Return whether scores from the least to the greatest are in the range of their codes, of all heads."""
        low, high = (torch.as_tensor(limit) for limit in self.spec.score_limits(self.constants))
        return bool((low.max() <= least) & (greatest <= high.min()))

    def clamp_to_codes(self, scores: Tensor) -> Tensor:
        """Clamp scores to the range of their codes, so that saturated scores get no gradient."""
        low, high = self.spec.score_limits(self.constants)
        if not self.per_head:
            return torch.clamp(scores, low, high)
        return torch.clamp(scores, per_head(low, scores).to(scores.dtype), per_head(high, scores).to(scores.dtype))


class _StraightThrough(torch.autograd.Function):
    """Returns the value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def at_least_float32(scores: Tensor) -> Tensor:
    """Return scores in float32, in which modules compute, or as they are if they are float64."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _zero_masked(scores: Tensor, attended: Tensor) -> Tensor:
    return torch.where(attended, scores, 0.0)
