"""The torch module that all methods share: masks, precision, the two modes, and calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from softmaxkit.kernels import operators
from softmaxkit.kernels.integers import IntegerKernel
from softmaxkit.kernels.launch import can_run
from softmaxkit.rows import check_mask
from softmaxkit.spec import Constants, Spec
from softmaxkit.tables import per_head

Mode = Literal["float", "integer", "fused"]


class Calibrator(Protocol):
    """Gathers what a method needs to know of real scores."""

    def observe(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Take in the scores and the full boolean mask of one batch, both (..., queries, keys).

        Returns the probabilities that the model is to go on with.
        """

    def finish(self) -> dict[str, Any]:
        """Return the real numbers that `Spec.constants` takes.

        Raises:
            ValueError: nothing was observed.
        """


class SoftmaxModule(nn.Module, ABC):
    """Normalises attention scores along one dimension.

    In "float" mode it computes the differentiable form of the method; in "integer" mode exactly the integers of
    `Spec.golden`, with the gradient of the float form, taken where neither scores nor results saturate
    (straight-through). "fused" is the float form, which attention layers take through `softmaxkit.attention` where they
    can: 8-bit products, and no probabilities to see. Computes in float32, or float64 for float64 scores; returns the
    dtype of the scores.

    Args:
        spec: the method.
        heads: size of the axis -3 of the scores where the method has something for each head, or None.
        mode: "float", "integer" or "fused".

    Attributes:
        calibration: the real numbers that calibration found, by name, as `Spec.constants` takes them.
        statistics: what calibration saw, for people to read; not kept in checkpoints.
        native_gradient: has the kernel of the float form a gradient?
    """

    native_gradient: ClassVar[bool] = True

    def __init__(self, spec: Spec, heads: int | None, mode: str) -> None:
        super().__init__()
        if heads is not None and heads < 1:
            raise ValueError(f"heads is 1 or more, or None, not {heads}")
        self.spec = spec
        self.heads = heads
        self.mode = mode
        self.calibration: dict[str, Any] = {}
        self.statistics: dict[str, float] = {}
        self._calibrator: Calibrator | None = None
        self._frozen: Constants | None = None
        self._built: tuple[Any, Constants] | None = None
        self._kernel: tuple[Constants, IntegerKernel | None] | None = None

    @property
    def mode(self) -> str:
        """The mode, "float", "integer" or "fused"; may be set."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is 'float', 'integer' or 'fused', not {mode!r}")
        self._mode = mode

    def extra_repr(self) -> str:
        """Say what the module is when a model is printed."""
        return f"{self.spec!r}, heads={self.heads}, mode={self.mode!r}"

    def forward(self, scores: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
        """Normalise scores.

        A row with an attended NaN or +inf becomes NaN as in `torch.softmax` (in ConSmax, which has no rows, only the
        NaN itself); a score of -inf is masked; a row with no attended key is all zeros.

        Args:
            scores: floating, any shape; (..., heads, queries, keys) where the method has something for each head.
            mask: boolean, True where attended, broadcasts to the scores.
            dim: the dimension of the keys.

        Returns:
            Probabilities, shape and dtype of the scores.

        Raises:
            TypeError: scores are not floating.
            ValueError: the mask is not boolean or does not fit; the scores do not have the module's heads; a method
                that needs calibration has had none.
        """
        if not scores.is_floating_point():
            raise TypeError(f"scores are floating, not {scores.dtype}; integer codes go to spec.golden")
        if scores.ndim < 1:
            raise ValueError("scores are (..., keys), not a single number")
        check_attended(scores, mask)
        if dim not in (-1, scores.ndim - 1):
            attended = attended_keys(scores, mask)
            return self.forward(scores.movedim(dim, -1), attended.movedim(dim, -1)).movedim(-1, dim)
        if self.per_head and (scores.ndim < 3 or scores.shape[-3] != self.heads):
            raise ValueError(
                f"this module has {self.heads} heads: scores are (..., {self.heads}, queries, keys), "
                f"not {tuple(scores.shape)}"
            )
        if self._calibrator is None and self.mode != "integer" and can_run(scores):
            arguments = self.native_arguments()
            needs_gradient = torch.is_grad_enabled() and scores.requires_grad
            if arguments is not None and (self.native_gradient or not needs_gradient):
                found: Tensor = getattr(operators, self.spec.method)(scores, *arguments, mask)
                return found
        wide = scores if scores.dtype == torch.float64 else scores.float()
        if self._calibrator is None and self.mode == "integer":
            result: Tensor = self._integer_forward(wide, mask)
            return result.to(scores.dtype)
        attended = attended_keys(scores, mask)
        wide = torch.where(attended, wide, 0.0)
        if self._calibrator is not None:
            with torch.no_grad():
                return self._calibrator.observe(wide, attended).to(scores.dtype)
        return self.float_forward(wide, attended).to(scores.dtype)

    @property
    def per_head(self) -> bool:
        """Does the module hold something for each head?"""
        return False

    @abstractmethod
    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the differentiable form; scores are finite or NaN, and 0 where not attended."""

    def native_arguments(self) -> tuple[Any, ...] | None:
        """Return what the kernel of the float form takes besides scores and mask; None where there is no kernel."""
        return None

    def surrogate(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the float form whose gradient stands for that of the integers."""
        return self.float_forward(self.clamp_to_codes(scores), attended)

    def clamp_to_codes(self, scores: Tensor) -> Tensor:
        """Clamp scores where their codes saturate, so that no gradient passes there."""
        low, high = self.spec.score_limits(self.constants)
        if not self.per_head:
            return torch.clamp(scores, low, high)
        return torch.clamp(scores, per_head(low, scores).to(scores.dtype), per_head(high, scores).to(scores.dtype))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _integer_forward(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        kernel = self.integer_kernel() if scores.dtype == torch.float32 and can_run(scores) else None
        if kernel is not None and not torch.is_grad_enabled():
            return kernel(scores, mask)
        attended = attended_keys(scores, mask)
        scores = torch.where(attended, scores, 0.0)
        with torch.no_grad():
            values = self.decoded_golden(scores, attended) if kernel is None else kernel(scores, attended)
        if not torch.is_grad_enabled():
            return values
        return _StraightThrough.apply(self.surrogate(scores, attended), values)  # type: ignore[no-untyped-call, no-any-return]

    def integer_kernel(self) -> IntegerKernel | None:
        """Return what computes `decoded_golden` natively, with the constants of now; None where nothing does."""
        constants = self.constants
        if self._kernel is None or self._kernel[0] is not constants:
            self._kernel = (constants, self.build_kernel(constants))
        return self._kernel[1]

    def build_kernel(self, constants: Any) -> IntegerKernel | None:
        """Build the native kernel for constants; None where the method or this form of it has none."""
        return None

    def decoded_golden(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Encode, run golden, decode; NaN where NaN was attended in the row."""
        constants = self.constants
        codes = self.spec.golden(self.spec.encode(scores, constants), attended, constants)
        values = self.spec.decode(codes, constants).to(scores.dtype)
        return torch.where(self.nan_reach(scores, attended), torch.nan, values)

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return what becomes NaN: rows in which NaN or +inf is attended, as in `torch.softmax`."""
        return ((scores.isnan() | (scores == torch.inf)) & attended).any(dim=-1, keepdim=True)

    @property
    def constants(self) -> Constants:
        """The integers of this layer: frozen ones where a checkpoint brought them, else built from the real numbers.

        Raises:
            ValueError: the method needs calibration and has had none.
        """
        if self._frozen is not None:
            return self._frozen
        # By value: fused optimisers change parameters without a trace.
        key = tuple(parameter.detach().double().cpu().numpy().tobytes() for parameter in self.parameters())
        if self._built is None or self._built[0] != key:
            self._built = (key, self.build_constants())
        return self._built[1]

    def build_constants(self) -> Constants:
        """Build the constants from calibrated and learned numbers."""
        return self.spec.constants(**self.calibration)

    def freeze(self, constants: Constants) -> None:
        """Hold to these constants until the module trains or is calibrated again."""
        self._frozen = constants

    def set_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Take the real numbers of a calibration; the constants are built from them anew."""
        self.calibration = dict(calibration)
        self._frozen = self._built = None

    def train(self, mode: bool = True) -> SoftmaxModule:
        """Switch to training, after which frozen constants no longer hold, or to evaluation."""
        if mode:
            self._frozen = None
        return super().train(mode)

    def calibrator(self) -> Calibrator | None:
        """Return a fresh calibrator, or None where the method has nothing to calibrate."""
        return None

    def converter(self) -> Calibrator | None:
        """Return what sets learned parameters to stand for exact softmax, or None where there are none."""
        return None

    def set_homotopy(self, share: float) -> None:
        """Let the float form go from exact softmax, 0, to the method, 1; no effect where a method has no such way."""

    def observe_with(self, calibrator: Calibrator | None) -> None:
        """Let a calibrator observe every forward from here on; None ends it."""
        self._calibrator = calibrator

    def take(self, found: Mapping[str, Any]) -> None:
        """Take over what a calibrator found; what it calls `statistics` is for people to read."""
        found = dict(found)
        self.statistics = found.pop("statistics", {})
        self.set_calibration({**self.calibration, **found})


class _StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def attended_keys(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the full boolean mask, in which a score of -inf is masked too.

    Raises:
        ValueError: the mask is not boolean or does not broadcast to the scores.
    """
    check_attended(scores, mask)
    attended = scores != -torch.inf
    return attended if mask is None else attended & mask


def check_attended(scores: Tensor, mask: Tensor | None) -> None:
    """Refuse what `attended_keys` refuses."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"a mask is a boolean tensor as the scores are, not {type(mask).__name__}")
    check_mask(scores, mask)


def masked_softmax(scores: Tensor, attended: Tensor) -> Tensor:
    """Softmax along the last axis over attended keys; an all-masked row gives zeros, and zero gradients."""
    anything = attended.any(dim=-1, keepdim=True)
    # An empty row is filled with zeros instead of -inf: its softmax is finite, and so is its gradient.
    filled = torch.where(attended, scores, torch.where(anything, -torch.inf, 0.0).to(scores.dtype))
    return torch.where(attended, torch.softmax(filled, dim=-1), 0.0)


def some_rows(values: Tensor) -> Tensor:
    """Return one row in four, (..., queries / 4, keys): plenty for a search over candidates, and four times faster."""
    return values[..., ::4, :] if values.ndim > 1 else values
