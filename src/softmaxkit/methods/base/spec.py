"""Base class of specs: the design-time choices of a method, and everything derived from them."""

from __future__ import annotations

import dataclasses
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import Array, Fixed, shift_right
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.answers import Answers
from softmaxkit.methods.base.answers import Dataflow as Dataflow
from softmaxkit.methods.base.answers import Storage as Storage
from softmaxkit.methods.base.answers import Training as Training
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.methods.base.fields import check_fields, field_choices, read_fields, read_values, write_fields
from softmaxkit.methods.base.partial import ElementPartial, Partial
from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.base.module import SoftmaxModule
    from softmaxkit.methods.base.unit import DeferredUnit, SoftmaxUnit


@dataclasses.dataclass(frozen=True)
class Spec(Answers, ABC):
    """A frozen description of a way to normalise attention scores; each method derives its own class.

    Scores, codes and results have the shape (..., keys), with rows along the last axis. A mask is boolean, True where
    a key is attended, and broadcasts to that shape. A row without an attended key gives all zeros, in every form.
    """

    constants_class: ClassVar[type[Constants]] = Constants
    constants_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the fields on which the constants depend; specs that agree in them can share constants."""
    required: ClassVar[tuple[str, ...]] = ()
    """Names of the learned or calibrated real parameters that the method cannot do without."""

    # Mathematics and integers.

    @abstractmethod
    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute the method's mathematics on real scores, in float64 NumPy.

        Args:
            scores: (..., keys).
            mask: boolean, True where attended, broadcasts to the scores; None attends to all.
            parameters: the method's real parameters.

        Returns:
            Probabilities, shape of the scores; 0 where masked.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: an attended score is NaN, or the mask does not broadcast.
        """

    @abstractmethod
    def constants(self, **parameters: Any) -> Constants:
        """Convert the real parameters of one layer or head to integers.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: a parameter is out of range.
        """

    @property
    @abstractmethod
    def score_bits(self) -> int:
        """Width of a score code in bits."""

    def encode(self, scores: Array, constants: Constants) -> Array:
        """Encode real scores as int64 score codes: divide by the score scale, round to nearest even, saturate."""
        xp = array_namespace(scores)
        return Fixed(self.score_bits, 0).encode(xp.astype(scores, xp.float64) / constants.score_scale(scores))

    def golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Compute the golden model: integers in, integers out, exactly as in the hardware.

        Args:
            codes: score codes, integers of any width, NumPy or torch, (..., keys).
            mask: boolean, True where attended, broadcasts to the codes; None attends to all.
            constants: constants built by this spec.

        Returns:
            Result codes, int64, shape of the codes; 0 where masked.

        Raises:
            TypeError: the codes are not integers, or the constants belong to another method.
            ValueError: the codes have no axis, the mask does not broadcast, an attended code is out of range, or the
                constants have another form.
        """
        return self._golden(self._checked(codes, mask, constants), mask, constants)

    def _checked(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Check codes, mask and constants as documented in `golden`; return the codes as int64."""
        xp = array_namespace(codes)
        if not xp.isdtype(codes.dtype, "integral"):
            raise TypeError(f"golden requires integer codes, got {codes.dtype}; encode scores with spec.encode")
        self.check_constants(constants)
        if codes.ndim < 1:
            raise ValueError("codes must have the shape (..., keys), got a single number")
        codes = xp.astype(codes, xp.int64)
        self._check_codes(codes, mask)
        low, high = self.code_range()
        # Masked codes are arbitrary; clip them so that they stay within the tables.
        return xp.clip(codes, low, high) if mask is not None else codes

    def _check_codes(self, codes: Array, mask: Array | None = None) -> None:
        """Raise ValueError if an attended code is out of range."""
        low, high = self.code_range()
        outside = (codes < low) | (codes > high)
        if mask is not None:
            outside = outside & broadcast_mask(codes, mask)
        if array_namespace(codes).any(outside):
            wrong = int(codes[outside][0])
            raise ValueError(
                f"score codes of {type(self).__name__} must be from {low} to {high}, got {wrong}; spec.encode saturates"
            )

    def check_constants(self, constants: Constants) -> None:
        """Check that constants were built by this spec, or by one with equal `constants_fields`.

        Raises:
            TypeError: they belong to another method.
            ValueError: they have another form.
        """
        if type(constants) is not self.constants_class:
            raise TypeError(
                f"{type(self).__name__} requires {self.constants_class.__name__}, got {type(constants).__name__}; "
                "build them with spec.constants(...)"
            )
        if constants.form and constants.form != self.constants_form:
            fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.constants_fields)
            raise ValueError(
                f"these constants were built by a different {type(self).__name__} than the one with {fields}; build "
                "them with spec.constants(...) of this spec"
            )

    @property
    def constants_form(self) -> int:
        """Non-zero checksum of the method and its `constants_fields`, which identifies the form of the constants."""
        fields = [f"{name}={getattr(self, name)}" for name in self.constants_fields]
        return zlib.crc32("; ".join([self.method, *fields]).encode()) or 1

    @classmethod
    def require(cls, parameters: Mapping[str, Any]) -> None:
        """Check that all required parameters are present.

        Raises:
            ValueError: one is missing; the message says how to obtain it.
            TypeError: one is missing, and another parameter looks like a misspelling of it.
        """
        missing = [name for name in cls.required if parameters.get(name) is None]
        if missing:
            arguments = ", ".join(f"{name}=..." for name in cls.required)
            for name in parameters:
                if name not in cls.required and (hint := suggestion(name, missing)).startswith("did you mean"):
                    raise TypeError(f"{cls.__name__} has no parameter {name!r}; {hint}")
            raise ValueError(
                f"{cls.__name__} requires {' and '.join(missing)}, learned by a model or set by calibration: run "
                f"softmaxkit.apply and softmaxkit.calibrate on a model, or pass {arguments}"
            )

    @abstractmethod
    def _golden(self, codes: Array, mask: Array | None, constants: Any) -> Array:
        """Compute the golden model on checked int64 codes."""

    def decode(self, codes: Array, constants: Constants) -> Array:
        """Convert the result codes of `golden` to float64 probabilities, exactly.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the constants have another form.
        """
        self.check_constants(constants)
        return self._decode(codes, constants)

    @abstractmethod
    def _decode(self, codes: Array, constants: Any) -> Array:
        """Decode result codes; the constants are already checked."""

    @abstractmethod
    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound `|decode(golden(codes)) - reference(score_values(codes))|`, derived from the formats.

        Returns:
            The bound of each element, shape of the codes; 0 where masked.
        """

    def score_range(self) -> tuple[int, int]:
        """Return the codes of the lowest and the highest score, to which out-of-range scores saturate."""
        codes = Fixed(self.score_bits, 0)
        return codes.min_code, codes.max_code

    def code_range(self) -> tuple[int, int]:
        """Return the smallest and the largest integer that is a valid score code."""
        return self.score_range()

    def score_limits(self, constants: Constants) -> tuple[Any, Any]:
        """Return the lowest and the highest real score that does not saturate; tuples with one per head if stacked."""
        scale = constants.real_scale
        low, high = (
            tuple(code * of_head for of_head in scale) if isinstance(scale, tuple) else code * scale
            for code in self.score_range()
        )
        return low, high

    def score_values(self, codes: Array, constants: Constants) -> NDArray[np.float64]:
        """Decode score codes to real scores, float64 NumPy, shape of the codes.

        Raises:
            TypeError, ValueError: as in `golden`.
        """
        self.check_constants(constants)
        self._check_codes(np.asarray(codes))
        values: NDArray[np.float64] = np.asarray(codes, np.float64) * constants.score_scale(np.asarray(codes))
        return values

    # Scores and weights of integer hardware, e.g. an attention engine.

    def scores_of(self, products: Array, places: int) -> Array:
        """Convert `products * 2**-places`, in units of the score scale, to the nearest score codes.

        Args:
            products: int64, any shape, magnitude below 2**61.
            places: number of fraction bits, 0 or more.
        """
        return Fixed(self.score_bits, 0).saturate(shift_right(products, places))

    def weights(self, codes: Array) -> Array:
        """Convert result codes to the unsigned fixed-point weights of the values; the identity by default."""
        return codes

    def weight_step(self, constants: Constants) -> float:
        """Return the probability that a weight of 1 represents."""
        return float(self.decode(np.ones(1, np.int64), constants)[0])

    def sliced_for(self, lanes: int) -> Self:
        """Return this spec with slices of whole beats of `lanes`; `self` if it has no slices, or wide enough ones."""
        return self

    def deferred(self, codes: Array, mask: Array | None, constants: Constants) -> DeferredRows:
        """Compute the integers of rows with deferred division, exactly as `deferred_unit` does.

        Args:
            codes: score codes, integers of any width, (..., keys), at least one key.
            mask: boolean, broadcasts to the codes.
            constants: constants built by this spec.

        Raises:
            TypeError, ValueError: as in `golden`; or there are no keys, or the spec does not support deferred division.
        """
        codes = self._checked(codes, mask, constants)
        if codes.shape[-1] == 0:
            raise ValueError(
                "deferred division requires at least one key, got codes of shape " + str(tuple(codes.shape))
            )
        return self._deferred(codes, mask, constants)

    def _deferred(self, codes: Array, mask: Array | None, constants: Any) -> DeferredRows:
        """Compute `deferred` on checked int64 codes."""
        raise ValueError(self._without_deferred())

    def deferred_unit(self, lanes: int, **sizes: Any) -> DeferredUnit:
        """Return the hardware of `deferred`, whose division comes after the weighted sum.

        Args:
            lanes: scores per cycle.
            sizes: `max_row`, `depth` and `storage`, as in `unit`; `pace`, the number of cycles for which the consumer
                of the weights is busy with one beat.

        Raises:
            ValueError: the method has no form with deferred division, or the sizes cannot be built.
        """
        raise ValueError(self._without_deferred())

    def _without_deferred(self) -> str:
        return f'{self.name} has no hardware that divides after the weighted sum; leave out pipeline="deferred"'

    # Torch module, hardware unit, and rows in parts.

    @abstractmethod
    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SoftmaxModule:
        """Return the `torch.nn.Module` of this method.

        Args:
            heads: size of axis -3 of the scores, for parameters per head; None shares them.
            mode: "float", "integer" or "fused", see `SoftmaxModule`.
            parameters: real parameters, learned or calibrated.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the mode is unknown, or a parameter is out of range.
        """

    def unit(self, lanes: int = 16, constants: Constants | None = None, sets: int = 1, **sizes: Any) -> SoftmaxUnit:
        """Return the hardware unit of this method, a streaming Amaranth component.

        Args:
            lanes: scores per cycle.
            constants: constants of one head, to bake in; None makes them loadable, if the method has any.
            sets: number of sets of loadable constants, 1 to 16; with more than one, each row carries the index of its
                set, and rows of different sets follow each other at full rate.
            sizes: `max_row`, the longest row (default 256); `depth`, the number of pipeline registers; `storage`, one
                of `storages`; and further arguments of the method's `Unit`.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the sizes cannot be built; the message states the rule.
            ModuleNotFoundError: Amaranth is not installed; the message says how to install it.
        """
        unit_class = self.unit_class()
        if sets != 1:
            if not unit_class.takes_sets:
                raise ValueError(f"a unit of {self.title} does not support several sets of constants; leave out sets")
            if constants is not None:
                raise ValueError(f"{sets} sets of constants must be loadable; leave out sets or the baked constants")
            sizes["sets"] = sets
        unit: SoftmaxUnit = unit_class(self, lanes, constants, **sizes)
        return unit

    @classmethod
    def unit_class(cls) -> Any:
        """Return the class `Unit` from unit.py next to the spec.

        Raises:
            ModuleNotFoundError: Amaranth is not installed; the message says how to install it.
        """
        import_module("softmaxkit.blocks")  # raises with the remedy if Amaranth is missing
        return import_module(f"{cls.__module__.rpartition('.')[0]}.unit").Unit

    def partial(self, **parameters: Any) -> Partial:
        """Return an empty state for rows that arrive in parts, with `update`, `merge` and `result`.

        The default is the state of an element-wise method, whose partial outputs simply add.

        Args:
            parameters: the method's real parameters, as in `reference`.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the method has no partial results, or a required parameter is missing.
        """
        if self.dataflow != "element":
            raise ValueError(f"{self.title} has no partial results: a probability depends on the whole row")
        self.require(parameters)
        self.module(**parameters)  # refuses unknown parameters
        return ElementPartial(self, dict(parameters))

    # Examples and forms.

    def examples(self) -> list[Constants]:
        """Return example constants of a few layers, for hardware tests."""
        return [self.constants()]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return the silicon forms that `synth` shows by default."""
        from softmaxkit.methods.base.forms import Form

        return [Form("", cls())]

    # Text and JSON.

    @property
    def variant(self) -> str:
        """Short description of how this spec differs from the default; empty for the default."""
        return self.differences()

    @property
    def name(self) -> str:
        """Name of the method followed by the variant, e.g. "softermax log2e=True"."""
        return f"{self.method} {self.variant}".strip()

    def differences(self, but: Sequence[str] = ()) -> str:
        """Return the fields that differ from their defaults, except `but`, e.g. "bits=16, constant=multiplied"."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name not in but]
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in changed)

    def unlike(self, other: Spec) -> list[str]:
        """Return the names of the fields that differ from another spec of the same method."""
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @classmethod
    def choices(cls) -> dict[str, tuple[Any, ...]]:
        """Return the allowed values of the fields that have a fixed set of them, by field name."""
        return field_choices(cls)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: schema, method and every field, with formats as text."""
        return write_fields(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a spec from a dict or JSON text. `Spec.from_json` reads any method; omitted fields get their defaults.

        Raises:
            ValueError: not a JSON object; an unknown schema, method or key; or a value of the wrong type.
        """
        from softmaxkit.methods import method_class

        method, fields = read_fields(data)
        spec_class = method_class(method)
        if not issubclass(spec_class, cls):
            raise ValueError(f"expected a spec of {cls.method!r}, got one of {method!r}; read it with Spec.from_json")
        spec: Self = spec_class(**read_values(spec_class, fields))
        return spec

    @classmethod
    def refuse(cls, parameters: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        """Raise TypeError for a parameter that is not in `known`, with the nearest known name."""
        for name in parameters:
            if name not in known:
                hint = suggestion(name, known, "known parameters are")
                raise TypeError(f"{cls.__name__} has no parameter {name!r}; {hint}")

    @classmethod
    def _check_one_head(cls, parameters: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that is not a single number, as the constants of one head require."""
        for name, value in parameters.items():
            if np.shape(value) != ():
                raise ValueError(
                    f"constants of {cls.__name__} are built for one head, so {name} must be a single number, got shape "
                    f"{tuple(np.shape(value))}; stack those of several heads with {cls.constants_class.__name__}.stack"
                )

    def _check_fields(self) -> None:
        """Check the types and choices of all fields, see `fields.check_fields`."""
        check_fields(self)


def check_spec(spec: object) -> None:
    """Raise TypeError if the argument is not a spec; the message says how to construct one."""
    if isinstance(spec, type) and issubclass(spec, Spec):
        raise TypeError(f"pass a spec, {spec.__name__}(), not the class {spec.__name__}")
    if not isinstance(spec, Spec):
        raise TypeError(f"expected a spec such as softmaxkit.Softermax() or softmaxkit.Exaq(bits=3), got {spec!r}")
