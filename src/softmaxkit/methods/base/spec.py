"""The spec: what is chosen of a method at design time, and everything that is derived from it."""

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
    """A way of normalising attention scores, frozen; every method derives one.

    Scores, codes and results have the shape (..., keys), a row along the last axis; a mask is boolean, True where a
    key is attended, and broadcasts to it. A row with no attended key gives all zeros, in every form.
    """

    constants_class: ClassVar[type[Constants]] = Constants
    constants_fields: ClassVar[tuple[str, ...]] = ()
    """The fields on which its constants depend: those of two specs are the same only where these are equal."""
    required: ClassVar[tuple[str, ...]] = ()
    """Real numbers without which nothing meaningful is computed: learned or calibrated ones."""

    # The mathematics and the integers.

    @abstractmethod
    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Return the method's own mathematics on real scores, in float64 NumPy.

        Raises:
            ValueError: a score is NaN, or the mask does not fit.
        """

    @abstractmethod
    def constants(self, **parameters: Any) -> Constants:
        """Turn the real numbers of one layer or head into its integers."""

    @property
    @abstractmethod
    def score_bits(self) -> int:
        """Width of a score code."""

    def encode(self, scores: Array, constants: Constants) -> Array:
        """Turn real scores into the int64 codes that the hardware takes: divided by the scale, rounded, saturated."""
        xp = array_namespace(scores)
        return Fixed(self.score_bits, 0).encode(xp.astype(scores, xp.float64) / constants.score_scale(scores))

    def golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Integers in, integers out: exactly what the gates compute.

        Args:
            codes: integers of any width, NumPy or torch, (..., keys).
            mask: boolean, True where attended, broadcasts to the codes; None attends to all.
            constants: of this spec.

        Returns:
            int64, the shape of the codes; 0 where masked.

        Raises:
            TypeError: codes are not integers, or the constants are another method's.
            ValueError: there is no axis of keys, the mask does not fit, an attended code is out of range, or the
                constants are of another form.
        """
        xp = array_namespace(codes)
        if not xp.isdtype(codes.dtype, "integral"):
            raise TypeError(f"golden takes integer codes, not {codes.dtype}; spec.encode makes them of scores")
        self.check_constants(constants)
        if codes.ndim < 1:
            raise ValueError("codes are (..., keys), not a single number")
        codes = xp.astype(codes, xp.int64)
        self._check_codes(codes, mask)
        low, high = self.code_range()
        # What is masked may hold anything; it is kept within tables.
        return self._golden(xp.clip(codes, low, high) if mask is not None else codes, mask, constants)

    def _check_codes(self, codes: Array, mask: Array | None = None) -> None:
        """Refuse an attended score code that is none."""
        low, high = self.code_range()
        outside = (codes < low) | (codes > high)
        if mask is not None:
            outside = outside & broadcast_mask(codes, mask)
        if array_namespace(codes).any(outside):
            wrong = int(codes[outside][0])
            raise ValueError(
                f"score codes of {type(self).__name__} are from {low} to {high} here, not {wrong}; "
                "spec.encode saturates"
            )

    def check_constants(self, constants: Constants) -> None:
        """Refuse constants that were not made by this spec, or by one that differs in nothing they depend on.

        Raises:
            TypeError: they are another method's.
            ValueError: they are of another form.
        """
        if type(constants) is not self.constants_class:
            raise TypeError(
                f"{type(self).__name__} takes {self.constants_class.__name__}, not {type(constants).__name__}; "
                "spec.constants makes them"
            )
        if constants.form and constants.form != self.constants_form:
            fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.constants_fields)
            raise ValueError(
                f"these constants were made by another {type(self).__name__} than the one with {fields}; make them "
                "with this spec's own spec.constants(...)"
            )

    @property
    def constants_form(self) -> int:
        """A number that tells constants of one form from those of another: equal where `constants_fields` are."""
        fields = [f"{name}={getattr(self, name)}" for name in self.constants_fields]
        return zlib.crc32("; ".join([self.method, *fields]).encode()) or 1

    @classmethod
    def require(cls, parameters: Mapping[str, Any]) -> None:
        """Refuse to compute without the real numbers that the method learns or calibrates.

        Raises:
            ValueError: one is missing, with how to get it.
            TypeError: one is given by a name that is nearly its own.
        """
        missing = [name for name in cls.required if parameters.get(name) is None]
        if missing:
            numbers = ", ".join(f"{name}=..." for name in cls.required)
            for name in parameters:
                if name not in cls.required and (hint := suggestion(name, missing)).startswith("did you mean"):
                    raise TypeError(f"{cls.__name__} has no parameter {name!r}; {hint}")
            raise ValueError(
                f"{cls.__name__} needs its {' and '.join(missing)}, which a model learns or calibration gives: run "
                f"softmaxkit.apply and softmaxkit.calibrate on a model, or give numbers, as in {numbers}"
            )

    @abstractmethod
    def _golden(self, codes: Array, mask: Array | None, constants: Any) -> Array:
        """Compute golden of int64 codes."""

    def decode(self, codes: Array, constants: Constants) -> Array:
        """Turn the codes that `golden` gives into float64 probabilities, exactly.

        Raises:
            TypeError, ValueError: the constants are another method's, or of another form.
        """
        self.check_constants(constants)
        return self._decode(codes, constants)

    @abstractmethod
    def _decode(self, codes: Array, constants: Any) -> Array:
        """Decode codes with constants that are this spec's."""

    @abstractmethod
    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound `|decode(golden(codes)) - reference(decoded codes)|`, per element, derived from the formats."""

    def score_range(self) -> tuple[int, int]:
        """Return the codes of the lowest and of the highest score, to which out-of-range scores saturate."""
        codes = Fixed(self.score_bits, 0)
        return codes.min_code, codes.max_code

    def code_range(self) -> tuple[int, int]:
        """Return the least and the largest integer that is a score code."""
        return self.score_range()

    def score_limits(self, constants: Constants) -> tuple[Any, Any]:
        """Return the lowest and the highest real score that codes can say; tuples of one a head where stacked."""
        scale = constants.real_scale
        low, high = (
            tuple(code * of_head for of_head in scale) if isinstance(scale, tuple) else code * scale
            for code in self.score_range()
        )
        return low, high

    def score_values(self, codes: Array, constants: Constants) -> NDArray[np.float64]:
        """Return the real scores that codes stand for, as float64 NumPy.

        Raises:
            TypeError, ValueError: as `golden`.
        """
        self.check_constants(constants)
        self._check_codes(np.asarray(codes))
        values: NDArray[np.float64] = np.asarray(codes, np.float64) * constants.score_scale(np.asarray(codes))
        return values

    # Scores from integers, and results as weights of integers, as in an attention engine.

    def scores_of(self, products: Array, places: int) -> Array:
        """Turn the numbers `products * 2**-places`, in units of the score scale, into the nearest score codes.

        Args:
            products: int64, any shape, below 2**61 in size.
            places: 0 or more.
        """
        return Fixed(self.score_bits, 0).saturate(shift_right(products, places))

    def weights(self, codes: Array) -> Array:
        """Turn result codes into what values are multiplied by: unsigned fixed point; here they are that already."""
        return codes

    def weight_step(self, constants: Constants) -> float:
        """Return the probability that the weight 1 stands for."""
        return float(self.decode(np.ones(1, np.int64), constants)[0])

    def sliced_for(self, lanes: int) -> Self:
        """Return this spec with slices of whole beats of so many lanes, where it has slices and they are narrower."""
        return self

    def deferred(self, codes: Array, mask: Array | None, constants: Constants) -> DeferredRows:
        """Return the integers of rows whose division comes after the weighted sum, as `deferred_unit` computes them.

        Args:
            codes: score codes, int64 (..., keys).
            mask: boolean, broadcasts to the codes.
            constants: of this spec.

        Raises:
            ValueError: the method has no such form.
        """
        raise ValueError(self._without_deferred())

    def deferred_unit(self, lanes: int, **sizes: Any) -> DeferredUnit:
        """Return the hardware of `deferred`.

        Args:
            lanes: scores a cycle.
            sizes: `max_row`, `depth` and `storage`, as for `unit`; `pace`, cycles for which whoever takes the weights
                works on a beat.

        Raises:
            ValueError: the method has no such form, or not of these sizes.
        """
        raise ValueError(self._without_deferred())

    def _without_deferred(self) -> str:
        return f'{self.name} has no hardware with the division after the weighted sum; leave pipeline="deferred" out'

    # Torch, hardware, and rows in parts.

    @abstractmethod
    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SoftmaxModule:
        """Return the `torch.nn.Module` of this method; `heads` counts the axis -3 of its scores."""

    def unit(self, lanes: int = 16, constants: Constants | None = None, sets: int = 1, **sizes: Any) -> SoftmaxUnit:
        """Return the hardware of this method, a streaming Amaranth component.

        Args:
            lanes: scores a cycle.
            constants: of one head, baked in; None makes them loadable, where the method has any.
            sets: of loadable constants, 1 to 16; with more than one, every row says which is its own, and rows of
                different sets follow each other as those of one do.
            sizes: `max_row`, the longest row (default 256); `depth`, pipeline registers; `storage`, one of `storages`;
                and what the method's `Unit` has besides.

        Raises:
            ValueError: sizes that cannot be built, with the rule.
            ModuleNotFoundError: Amaranth is not installed; the message says how to get it.
        """
        unit_class = self.unit_class()
        if sets != 1:
            if not unit_class.takes_sets:
                raise ValueError(f"a unit of {self.title} has no sets of constants to choose from; leave sets out")
            if constants is not None:
                raise ValueError(f"{sets} sets of constants are loadable ones; leave sets or the baked constants out")
            sizes["sets"] = sets
        unit: SoftmaxUnit = unit_class(self, lanes, constants, **sizes)
        return unit

    @classmethod
    def unit_class(cls) -> Any:
        """Return the class `Unit` in the file unit.py beside the spec.

        Raises:
            ModuleNotFoundError: Amaranth is not installed; the message says how to get it.
        """
        import_module("softmaxkit.blocks")  # says what is missing, if anything is
        return import_module(f"{cls.__module__.rpartition('.')[0]}.unit").Unit

    def partial(self, **parameters: Any) -> Partial:
        """Return an empty state for rows that arrive in parts: `update`, `merge`, `result`.

        By default that of an element-wise method, whose partial outputs just add.

        Args:
            parameters: the method's real numbers, as for `reference`.

        Raises:
            ValueError: a probability depends on the whole row, and the method has no state that merges.
        """
        if self.dataflow != "element":
            raise ValueError(f"{self.title} has no partial results: a probability depends on the whole row")
        self.require(parameters)
        self.module(**parameters)  # refuses what is no number of the method's
        return ElementPartial(self, dict(parameters))

    # Examples and forms.

    def examples(self) -> list[Constants]:
        """Return constants of a few layers as they may be, to try hardware with."""
        return [self.constants()]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return the forms in silicon that `synth` shows by default."""
        from softmaxkit.methods.base.forms import Form

        return [Form("", cls())]

    # Text and JSON.

    @property
    def variant(self) -> str:
        """Which form of the method this is, in a few words; empty for the defaults."""
        return self.differences()

    @property
    def name(self) -> str:
        """Method and variant, e.g. "softermax log2e=True"."""
        return f"{self.method} {self.variant}".strip()

    def differences(self, but: Sequence[str] = ()) -> str:
        """Return the fields that differ from their defaults, as "bits=16, constant=multiplied"."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name not in but]
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in changed)

    def unlike(self, other: Spec) -> list[str]:
        """Return the names of the fields in which this differs from another spec of its method."""
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @classmethod
    def choices(cls) -> dict[str, tuple[Any, ...]]:
        """Return the choices of the fields that have few."""
        return field_choices(cls)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: schema, method, and every field; formats as text."""
        return write_fields(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a spec from a dict or JSON text. `Spec.from_json` takes any method; left-out fields have their default.

        Raises:
            ValueError: no JSON object, an unknown schema, method or key, or a value of the wrong kind.
        """
        from softmaxkit.methods import method_class

        method, fields = read_fields(data)
        spec_class = method_class(method)
        if not issubclass(spec_class, cls):
            raise ValueError(f"this is a spec of {method!r}, not of {cls.method!r}; read it with Spec.from_json")
        spec: Self = spec_class(**read_values(spec_class, fields))
        return spec

    @classmethod
    def refuse(cls, parameters: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        """Raise TypeError where a parameter is given that is not known here, with the nearest that is."""
        for name in parameters:
            if name not in known:
                hint = suggestion(name, known, "what it takes here is")
                raise TypeError(f"{cls.__name__} has no parameter {name!r}; {hint}")

    def _check_fields(self) -> None:
        """Refuse fields that hold another type than theirs, or none of their choices."""
        check_fields(self)


def check_spec(spec: object) -> None:
    """Refuse what is no spec, with a TypeError that says how to get one."""
    if isinstance(spec, type) and issubclass(spec, Spec):
        raise TypeError(f"give a spec, {spec.__name__}(), not the class {spec.__name__}")
    if not isinstance(spec, Spec):
        raise TypeError(f"a spec is made as softmaxkit.Softermax() or softmaxkit.Exaq(bits=3), not {spec!r}")
