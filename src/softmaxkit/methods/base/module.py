"""The torch module that all methods share: masks, precision, the modes, calibration, and what kernels can run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import Choice, only_torch, pick, transform_at_work
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.numbers import bits_of, numbers_of
from softmaxkit.methods.base.rows import attended_keys, check_attended
from softmaxkit.methods.base.spec import Spec
from softmaxkit.tables import per_head

Mode = Literal["float", "integer", "fused"]


class Calibrator(Protocol):
    """Gathers what a method needs to know of real scores."""

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Take in the scores and the full boolean mask of one batch, both (..., queries, keys).

        Of attention there are `values` too, (..., keys, channels). Returns the probabilities that the model is to go
        on with.
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
        statistics: what calibration saw, for people to read; not kept in checkpoints.
        calibrated: a buffer with the bits of the calibration, so that every state dict has it; int64, (numbers, heads
            or 1), which no change of dtype touches.
    """

    calibrated_numbers: ClassVar[tuple[str, ...]] = ()
    """Names of the real numbers that calibration gives, in the order of `calibrated`."""
    calibrated: Tensor

    def __init__(self, spec: Spec, heads: int | None, mode: str) -> None:
        super().__init__()
        if heads is not None and heads < 1:
            raise ValueError(f"heads is 1 or more, or None, not {heads}")
        self.spec = spec
        self.heads = heads
        self.mode = mode
        self._calibration: dict[str, Any] = {}
        self.register_buffer("calibrated", torch.empty((0, 1), dtype=torch.int64))
        self.statistics: dict[str, float] = {}
        self._calibrator: Calibrator | None = None
        self._frozen: Constants | None = None
        self._built: tuple[Any, Constants] | None = None
        self._integer_call: tuple[Constants, IntegerCall | None] | None = None

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

    # What the method answers for itself.

    @abstractmethod
    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the differentiable form; scores are finite or NaN, and 0 where not attended."""

    @property
    def per_head(self) -> bool:
        """Does the module hold something for each head?"""
        return False

    @property
    def softmax_base(self) -> float | None:
        """The base, where the float form is softmax itself to some base; None where it is not."""
        return None

    def row_call(self, device: torch.device) -> RowCall | None:
        """Return the kernel of the float form for rows on a device; None where it has none."""
        return None

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integers with some constants; None where the method or this form has none."""
        return None

    def attention_call(self) -> AttentionCall | None:
        """Return how a fused attention weighs keys, with 8-bit products; None where the method has no such kernel."""
        return None

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return what becomes NaN: rows in which NaN or +inf is attended, as in `torch.softmax`."""
        return ((scores.isnan() | (scores == torch.inf)) & attended).any(dim=-1, keepdim=True)

    def surrogate(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the float form whose gradient stands for that of the integers."""
        return self.float_forward(self.clamp_to_codes(scores), attended)

    def build_constants(self) -> Constants:
        """Build the constants from calibrated and learned numbers."""
        return self.spec.constants(**self.calibration)

    def calibrator(self) -> Calibrator | None:
        """Return a fresh calibrator, or None where the method has nothing to calibrate."""
        return None

    def converter(self) -> Calibrator | None:
        """Return what sets learned parameters to stand for exact softmax, or None where there are none."""
        return None

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return this module's parameters, by name, that real numbers given as tensors stand for; for gradients."""
        return {}

    def set_homotopy(self, share: float) -> None:
        """Let the float form go from exact softmax, 0, to the method, 1; no effect where a method has no such way."""

    # Forward.

    def forward(self, scores: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
        """Normalise scores.

        A row with an attended NaN or +inf becomes NaN as in `torch.softmax` (in an element-wise method, which has no
        rows, only the NaN itself); a score of -inf is masked; what is masked is 0.

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
        if self._calibrator is not None:
            return self.observe(scores, mask)
        if self.mode == "integer":
            if torch.compiler.is_exporting():
                raise RuntimeError('the integer mode is not for export; export the module in mode="float"')
            result: Tensor = self._integer_forward(_wide(scores), mask)
            return result.to(scores.dtype)
        call, choice = self.choose(scores)
        if call is not None and choice.kernel:
            return call.run(scores, mask)
        attended = attended_keys(scores, mask)
        return self.float_forward(_filled(_wide(scores), attended), attended).to(scores.dtype)

    def observe(self, scores: Tensor, mask: Tensor | None, values: Tensor | None = None) -> Tensor:
        """Let the calibrator at work see scores, and the values that they weigh, (..., keys, channels).

        Returns:
            Probabilities to go on with, shape and dtype of the scores.
        """
        assert self._calibrator is not None
        attended = attended_keys(scores, mask)
        with torch.no_grad():
            return self._calibrator.observe(_filled(_wide(scores), attended), attended, values).to(scores.dtype)

    def choose(self, scores: Tensor) -> tuple[RowCall | None, Choice]:
        """Return the kernel of the float form, and the back end that would run it on some scores."""
        call = self.row_call(scores.device)
        if call is None:
            return None, only_torch(scores.device, f"{self.spec.title} has no kernel for this form")
        return call, pick(call, scores)

    def choose_integers(self, scores: Tensor) -> tuple[IntegerCall | None, Choice]:
        """Return the kernel of the integers, and the back end that would run it on some scores."""
        constants = self.constants
        if self._integer_call is None or self._integer_call[0] is not constants:
            self._integer_call = (constants, self.integer_call(constants))
        call = self._integer_call[1]
        if call is None:
            return None, only_torch(scores.device, f"{self.spec.title} has no kernel for the integers of this form")
        with torch.no_grad():  # the gradient is that of the float form
            return call, pick(call, scores)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _integer_forward(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if transform := transform_at_work():
            raise RuntimeError(
                f"the integer mode does not go through {transform} (vmap, grad, jvp): its integers are no "
                'torch formula; use mode="float" there, or loss.backward() for its straight-through gradient'
            )
        call, choice = self.choose_integers(scores)
        kernel = call if choice.kernel else None
        if kernel is not None and not torch.is_grad_enabled():
            return kernel(scores, mask)
        attended = attended_keys(scores, mask)
        scores = _filled(scores, attended)
        with torch.no_grad():
            values = self.decoded_golden(scores, attended) if kernel is None else kernel(scores, attended)
        if not torch.is_grad_enabled():
            return values
        return _StraightThrough.apply(self.surrogate(scores, attended), values)  # type: ignore[no-untyped-call, no-any-return]

    def decoded_golden(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Encode, run golden, decode; NaN where NaN was attended in the row."""
        constants = self.constants
        codes = self.spec.golden(self.spec.encode(scores, constants), attended, constants)
        values = self.spec.decode(codes, constants).to(scores.dtype)
        return torch.where(self.nan_reach(scores, attended) & attended, torch.nan, values)

    def clamp_to_codes(self, scores: Tensor) -> Tensor:
        """Clamp scores where their codes saturate, so that no gradient passes there."""
        low, high = self.spec.score_limits(self.constants)
        if not self.per_head:
            return torch.clamp(scores, low, high)
        return torch.clamp(scores, per_head(low, scores).to(scores.dtype), per_head(high, scores).to(scores.dtype))

    # Constants and calibration.

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

    @property
    def calibration(self) -> Mapping[str, Any]:
        """The real numbers that calibration gave, as `Spec.constants` takes them; `set_calibration` sets them."""
        return MappingProxyType(deepcopy(self._calibration))

    def calibration_of(self, head: int) -> dict[str, Any]:
        """Return the calibration of one head; a number that all heads share counts for each."""
        return {key: x[head] if isinstance(x, Sequence) else x for key, x in self._calibration.items()}

    def freeze(self, constants: Constants) -> None:
        """Hold to these constants until the module trains or is calibrated again."""
        self._frozen = constants

    def set_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Set the real numbers of a calibration; the constants are built from them anew."""
        self._calibration = deepcopy(dict(calibration))
        self._frozen = self._built = None
        self.calibrated = bits_of(self._calibration, self.calibrated_numbers).to(self.calibrated.device)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Take the calibration along; a state dict of before there was one leaves it as it is."""
        key = f"{prefix}calibrated"
        saved = state_dict.get(key)
        if saved is None:
            state_dict[key] = self.calibrated
        elif len(saved) == len(self.calibrated_numbers) and not torch.equal(saved.cpu(), self.calibrated.cpu()):
            self.set_calibration(numbers_of(saved, self.calibrated_numbers))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def train(self, mode: bool = True) -> SoftmaxModule:
        """Switch to training, after which frozen constants no longer hold, or to evaluation."""
        if mode:
            self._frozen = None
        return super().train(mode)

    @property
    def observed(self) -> bool:
        """Is a calibrator at work?"""
        return self._calibrator is not None

    def observe_with(self, calibrator: Calibrator | None) -> None:
        """Let a calibrator observe every forward from here on; None ends it."""
        self._calibrator = calibrator

    def adopt(self, results: Mapping[str, Any]) -> None:
        """Adopt the results of a calibrator: those named as a parameter become it, and the rest is the calibration.

        What it calls `statistics` is for people to read.
        """
        results = dict(results)
        self.statistics = results.pop("statistics", {})
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in results:
                    parameter.copy_(results.pop(name))
        self.set_calibration({**self.calibration, **results})


class _StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()


def _filled(scores: Tensor, attended: Tensor) -> Tensor:
    return torch.where(attended, scores, 0.0)
