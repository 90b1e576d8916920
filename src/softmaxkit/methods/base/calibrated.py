"""The calibration of a torch module: who observes its scores, the numbers found, and the constants built from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.numbers import bits_of, is_sharded, numbers_of
from softmaxkit.methods.base.spec import Spec


class Calibrator(Protocol):
    """Collects the statistics of real scores that a method's calibration requires."""

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Observe one batch.

        Args:
            scores: floating-point, (..., queries, keys).
            attended: full boolean mask of the same shape.
            values: the values of attention, (..., keys, channels); None outside attention.

        Returns:
            The probabilities with which the model continues, shape of the scores.
        """

    def finish(self) -> dict[str, Any]:
        """Return the calibrated parameters, for `Calibrated.adopt`.

        Raises:
            ValueError: nothing was observed.
        """


class Calibrated(nn.Module):
    """Holds the calibrated parameters of a layer, and its constants.

    Args:
        spec: the spec.
        heads: size of axis -3 of the scores if the method has parameters per head, else None.

    Attributes:
        statistics: calibration statistics for display; not saved in checkpoints.
        calibrated: buffer with the bits of the calibrated parameters, so that every state dict includes them; int64,
            (parameters, heads or 1), which a change of the module's dtype leaves alone.
    """

    calibrated_numbers: ClassVar[tuple[str, ...]] = ()
    """Names of the calibrated parameters, in the order of the rows of `calibrated`."""
    calibrated: Tensor

    def __init__(self, spec: Spec, heads: int | None) -> None:
        super().__init__()
        if heads is not None and (type(heads) is not int or heads < 1):
            raise ValueError(f"heads must be a whole number, 1 or more, or None, got {heads!r}")
        self.spec = spec
        self.heads = heads
        self._calibration: dict[str, Any] = {}
        self._learned_names: set[str] = set()
        self.register_buffer("calibrated", torch.empty((0, 1), dtype=torch.int64))
        self.statistics: dict[str, float] = {}
        self._calibrator: Calibrator | None = None
        self._frozen: tuple[Constants, dict[str, Tensor]] | None = None
        self._built: tuple[Any, Constants] | None = None

    @property
    def per_head(self) -> bool:
        """Whether the module has parameters or constants per head."""
        return False

    def build_constants(self) -> Constants:
        """Build the constants from the calibrated and learned parameters."""
        return self.spec.constants(**self.calibration)

    @property
    def constants(self) -> Constants:
        """The integers of this layer: frozen ones if loaded from a checkpoint, else built from the real parameters.

        Raises:
            ValueError: the method is not calibrated yet.
            RuntimeError: the learned parameters are sharded over processes.
        """
        learned = self.learned_tensors()
        if any(map(is_sharded, learned.values())):
            raise RuntimeError(
                f"the parameters of {type(self).__name__} are sharded over processes, and its integers need all of "
                "them; calibrate before FSDP shards the model, and read constants between unshard() and reshard() of "
                "what it shards, or from a model that has loaded the full state dict"
            )
        if (frozen := self.frozen_for(learned)) is not None:
            return frozen
        # Compared by value, since fused optimisers do not bump the version counters of parameters.
        key = tuple(parameter.detach().double().cpu().numpy().tobytes() for parameter in learned.values())
        if self._built is None or self._built[0] != key:
            self._built = (key, self.build_constants())
        return self._built[1]

    def learned_tensors(self) -> dict[str, Tensor]:
        """Return the learned parameters by name, as the module computes with them.

        Others may have replaced them by plain tensors: parametrisations, FSDP's flat parameters, and replicas of
        `nn.DataParallel`.
        """
        return {name: getattr(self, name) for name in sorted(self._learned_names) if hasattr(self, name)}

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a learned parameter, whose name is kept even if it is replaced."""
        super().register_parameter(name, param)
        self._learned_names.add(name)

    @property
    def calibration(self) -> Mapping[str, Any]:
        """The calibrated parameters, as accepted by `Spec.constants`; change them with `set_calibration`."""
        return MappingProxyType(deepcopy(self._calibration))

    def calibration_of(self, head: int) -> dict[str, Any]:
        """Return the calibrated parameters of one head; a single number applies to all heads."""
        return {key: x[head] if isinstance(x, Sequence) else x for key, x in self._calibration.items()}

    def freeze(self, constants: Constants) -> None:
        """Use these constants until the module is trained or calibrated again, or its parameters change."""
        self._frozen = constants, {name: x.detach().clone() for name, x in self.learned_tensors().items()}

    def frozen_for(self, learned: Mapping[str, Tensor]) -> Constants | None:
        """Return the frozen constants, if any, provided that these are the learned parameters to which they belong.

        A state dict or an adapter may have replaced them since. A change of dtype or device does not count.
        """
        if self._frozen is None:
            return None
        constants, frozen = self._frozen
        pairs = ((was, learned[name].detach()) for name, was in frozen.items())
        # Offloaded weights, on the meta device, have no values to compare.
        is_same = frozen.keys() <= learned.keys() and all(
            was.is_meta or now.is_meta or torch.equal(was.to(now), now) for was, now in pairs
        )
        return constants if is_same else None

    def set_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Replace the calibrated parameters; the constants are rebuilt from them.

        Args:
            calibration: by name, a single number, or a sequence, array or tensor with one number per head.

        Raises:
            ValueError: there are several numbers, but not one per head, or the heads share their calibration; or
                a score scale is out of range.
        """
        calibration = {key: x.tolist() if hasattr(x, "tolist") else deepcopy(x) for key, x in calibration.items()}
        for name, value in calibration.items():
            if isinstance(value, Sequence) and (not self.per_head or len(value) != self.heads):
                per_head = f" or {self.heads} of them, one per head" if self.per_head else ""
                raise ValueError(f"{name} must be a single number{per_head}, got {len(value)} numbers")
            if name == "scale":
                for scale in value if isinstance(value, Sequence) else (value,):
                    encode_scale(scale)  # checks it at once, not when integers are needed
        self._calibration = calibration
        self._frozen = self._built = None
        self.calibrated = bits_of(self._calibration, self.calibrated_numbers).to(self.calibrated.device)

    def _save_to_state_dict(self, *arguments: Any) -> None:
        """Save the calibration too, whatever `to_empty` or an average of models has made of the buffer."""
        bits, buffer = bits_of(self._calibration, self.calibrated_numbers), self.calibrated
        if type(buffer) is Tensor and not buffer.is_meta and not torch.equal(buffer.cpu(), bits):
            self.calibrated = bits.to(buffer.device)
        super()._save_to_state_dict(*arguments)  # type: ignore[no-untyped-call, unused-ignore]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load the calibration too; without one, or on the meta device, where it has no values, it stays as it is."""
        key, names = f"{prefix}calibrated", self.calibrated_numbers
        saved = state_dict.get(key)
        if saved is None or saved.is_meta:
            state_dict[key] = self.calibrated
        elif len(saved) == len(names) and not torch.equal(saved.cpu(), bits_of(self._calibration, names)):
            self.set_calibration(numbers_of(saved, names))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, which discards frozen constants, or to evaluation mode."""
        if mode:
            self._frozen = None
        return super().train(mode)

    @property
    def observed(self) -> bool:
        """Whether a calibrator is active."""
        return self._calibrator is not None

    def observe_with(self, calibrator: Calibrator | None) -> None:
        """Let a calibrator observe every forward call from now on; None removes it."""
        self._calibrator = calibrator

    def adopt(self, results: Mapping[str, Any]) -> None:
        """Apply the results of a calibrator.

        Entries named like a parameter are copied into it, "statistics" is stored for display, and the rest updates the
        calibration.
        """
        results = dict(results)
        self.statistics = results.pop("statistics", {})
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in results:
                    parameter.copy_(results.pop(name))
        self.set_calibration({**self.calibration, **results})

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """Undo what the block adopts if it raises."""
        before = self.statistics, self._calibration, self._frozen, self._built, self.calibrated
        learned = [parameter.detach().clone() for parameter in self.parameters()]
        try:
            yield
        except BaseException:
            self.statistics, self._calibration, self._frozen, self._built, self.calibrated = before
            with torch.no_grad():
                for parameter, value in zip(self.parameters(), learned, strict=True):
                    parameter.copy_(value)
            raise
