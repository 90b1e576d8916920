"""What every method answers: its design-time choices, its constants, and the faces derived from the two.

A `Spec` is what is chosen at design time. `Constants` are what one trained or calibrated layer or head adds: integers
only, made from real numbers by `Spec.constants` and by nothing else. Both go to JSON and back.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import Array, Fixed, Float, parse_format
from softmaxkit.tables import per_head

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.module import SoftmaxModule
    from softmaxkit.methods.unit import SoftmaxUnit

Training = Literal["from scratch", "fine-tuned", "calibrated"]

SCHEMA = 1
"""Version of the JSON of specs, constants and records."""

METHODS = {
    "exact": "Exact",
    "consmax": "ConSmax",
    "softermax": "Softermax",
    "exaq": "Exaq",
}
"""The registry: a method's folder under `softmaxkit.methods`, and its spec class there."""


def method_class(name: str) -> type[Spec]:
    """Return the spec class of a method by its name, e.g. "softermax".

    Raises:
        ValueError: there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"no method is called {name!r}; the methods are {', '.join(METHODS)}")
    found: type[Spec] = getattr(import_module(f"softmaxkit.methods.{name}"), METHODS[name])
    return found


@dataclasses.dataclass(frozen=True)
class Constants:
    """The integers of one layer or head. Scalars and tables become tuples of them where heads are stacked.

    Attributes:
        scale: the score scale as `(mantissa, exponent)`: a score code `c` stands for `c * mantissa * 2**exponent`.
    """

    scale: Any

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: keys are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(data) != names:
            raise ValueError(f"constants of {cls.__name__} have the keys {sorted(names)}, not {sorted(data)}")
        return cls(**{name: _tuples(value) for name, value in data.items()})

    def fits(self, other: Constants) -> bool:
        """Are these of the same form, field by field: integers where it has them, tables of the same lengths?"""
        return type(self) is type(other) and _form(dataclasses.astuple(self)) == _form(dataclasses.astuple(other))

    @property
    def heads(self) -> int | None:
        """How many heads are stacked; None for the constants of one."""
        return len(self.scale) if isinstance(self.scale[0], tuple) else None

    def of_head(self, head: int) -> Self:
        """Return the constants of one head; these themselves where heads are not stacked."""
        if self.heads is None:
            return self
        return type(self)(*(getattr(self, field.name)[head] for field in dataclasses.fields(self)))

    @property
    def real_scale(self) -> float | tuple[float, ...]:
        """The real score scale; one a head where heads are stacked."""
        if self.heads is not None:
            return tuple(_ldexp(*scale) for scale in self.scale)
        return _ldexp(*self.scale)

    def score_scale(self, codes: Array) -> Any:
        """Return the real score scale: a float, or float64 of shape (heads, 1, 1) like `codes` where stacked."""
        return per_head(self.real_scale, codes)


@dataclasses.dataclass(frozen=True)
class Spec(ABC):
    """A way of normalising attention scores, frozen. Subclasses are `Exact`, `ConSmax`, `Softermax`, `Exaq`.

    Scores, codes and results have the shape (..., keys), a row along the last axis; a mask is boolean, True where a
    key is attended, and broadcasts to it. A row with no attended key gives all zeros, in every form.
    """

    method: ClassVar[str]
    """Its name, as in the registry and on the command line."""
    summary: ClassVar[str]
    """One line for listings."""
    source: ClassVar[str]
    """The paper."""
    trained: ClassVar[Training]
    """How a model is brought to it: trained "from scratch", "fine-tuned" from exact, or only "calibrated"."""
    constants_class: ClassVar[type[Constants]] = Constants

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
    def training(self) -> Training:
        """How a model is brought to this spec; by default as to every spec of its method."""
        return self.trained

    @property
    def base(self) -> float:
        """The base to which real softmax is what the method stands for."""
        return math.e

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
            ValueError: there is no axis of keys, or the mask does not fit.
        """
        xp = array_namespace(codes)
        if not xp.isdtype(codes.dtype, "integral"):
            raise TypeError(f"golden takes integer codes, not {codes.dtype}; spec.encode makes them of scores")
        if type(constants) is not self.constants_class:
            raise TypeError(
                f"{type(self).__name__} takes {self.constants_class.__name__}, not {type(constants).__name__}; "
                "spec.constants makes them"
            )
        if codes.ndim < 1:
            raise ValueError("codes are (..., keys), not a single number")
        return self._golden(xp.astype(codes, xp.int64), mask, constants)

    @abstractmethod
    def _golden(self, codes: Array, mask: Array | None, constants: Any) -> Array:
        """Compute golden of int64 codes."""

    @abstractmethod
    def decode(self, codes: Array, constants: Constants) -> Array:
        """Turn the codes that `golden` gives into float64 probabilities, exactly."""

    @abstractmethod
    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound `|decode(golden(codes)) - reference(decoded codes)|`, per element, derived from the formats."""

    def score_range(self) -> tuple[int, int]:
        """Return the codes of the lowest and of the highest score, to which out-of-range scores saturate."""
        codes = Fixed(self.score_bits, 0)
        return codes.min_code, codes.max_code

    def score_limits(self, constants: Constants) -> tuple[Any, Any]:
        """Return the lowest and the highest real score that codes can say; tuples of one a head where stacked."""
        scale = constants.real_scale
        low, high = (
            tuple(code * each for each in scale) if isinstance(scale, tuple) else code * scale
            for code in self.score_range()
        )
        return low, high

    @abstractmethod
    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SoftmaxModule:
        """Return the `torch.nn.Module` of this method; `heads` counts the axis -3 of its scores."""

    def unit(self, lanes: int = 16, constants: Constants | None = None, **sizes: Any) -> SoftmaxUnit:
        """Return the hardware of this method, a streaming Amaranth component.

        Args:
            lanes: scores a cycle.
            constants: of one head, baked in; None makes them loadable, where the method has any.
            sizes: `max_row`, the longest row (default 256); `depth`, pipeline registers; `storage`, "flip-flops",
                "latches" or "memory"; and what the method's `Unit` has besides.

        Raises:
            ValueError: sizes that cannot be built, with the rule.
            ModuleNotFoundError: Amaranth is not installed; the message says how to get it.
        """
        import_module("softmaxkit.blocks")  # says what is missing, if anything is
        found = import_module(f"softmaxkit.methods.{self.method}.unit")
        unit: SoftmaxUnit = found.Unit(self, lanes, constants, **sizes)
        return unit

    def start(self, keys: int) -> dict[str, Any]:
        """Return the parameters that a module trains from, for rows of up to `keys` keys; most methods have none."""
        return {}

    def examples(self) -> list[Constants]:
        """Return constants of a few layers as they may be, to try hardware with."""
        return [self.constants()]

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the specs that `compare` shows by default."""
        return [cls()]

    def score_values(self, codes: Array, constants: Constants) -> NDArray[np.float64]:
        """Return the real scores that codes stand for, as float64 NumPy."""
        values: NDArray[np.float64] = np.asarray(codes, np.float64) * constants.score_scale(np.asarray(codes))
        return values

    @property
    def variant(self) -> str:
        """Which form of the method this is, in a few words; empty for the defaults."""
        return self.differences()

    def differences(self, but: Sequence[str] = ()) -> str:
        """Return the fields that differ from their defaults, as "bits=16, constant=multiplied"."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name not in but]
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in changed)

    @classmethod
    def choices(cls) -> dict[str, tuple[Any, ...]]:
        """Return the choices of the fields that have few."""
        kinds = _field_types(cls).items()
        return {name: typing.get_args(kind) for name, kind in kinds if typing.get_origin(kind) is Literal}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: schema, method, and every field; formats as text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {key: str(value) if isinstance(value, Fixed | Float) else value for key, value in values.items()}
        return {"schema": SCHEMA, "method": self.method, **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a spec from a dict or JSON text. `Spec.from_json` takes any method; left-out fields have their default.

        Raises:
            ValueError: no JSON object, an unknown schema, method or key, or a value of the wrong kind.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except json.JSONDecodeError as error:
                raise ValueError(f"a spec is a JSON object, but this is no JSON: {error}") from None
        if not isinstance(data, Mapping):
            raise ValueError(f'a spec is a JSON object such as {{"schema": {SCHEMA}, "method": "softermax"}}')
        fields = dict(data)
        schema, method = fields.pop("schema", None), fields.pop("method", None)
        if schema != SCHEMA:
            hint = f'; add "schema": {SCHEMA}' if schema is None else ""
            raise ValueError(f'this version reads specs of "schema": {SCHEMA}, not {schema!r}{hint}')
        found = method_class(str(method))
        if not issubclass(found, cls):
            raise ValueError(f"this is a spec of {method!r}, not of {cls.method!r}; read it with Spec.from_json")
        hints = _field_types(found)
        for key in fields:
            if key not in hints:
                near = difflib.get_close_matches(key, hints, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(hints)}"
                raise ValueError(f"a spec of {method!r} has no key {key!r}; {hint}")
        spec: Self = found(**{key: _read(value, hints[key]) for key, value in fields.items()})
        return spec

    @classmethod
    def refuse(cls, parameters: Mapping[str, Any]) -> None:
        """Raise TypeError where parameters are given that this method does not have."""
        if parameters:
            raise TypeError(f"{cls.__name__} has no parameter {' and no '.join(map(repr, parameters))}")

    def _check_fields(self) -> None:
        """Refuse fields that hold another type than theirs, or none of their choices."""
        for name, kind in _field_types(type(self)).items():
            value, field = getattr(self, name), f"{type(self).__name__}.{name}"
            if typing.get_origin(kind) is Literal:
                choices = self.choices()[name]
                if not any(type(value) is type(choice) and value == choice for choice in choices):
                    allowed = " or ".join(repr(choice) for choice in choices)
                    raise ValueError(f"{field} is {allowed}, not {value!r}")
            elif not (type(value) in _members(kind) or (kind is float and type(value) is int)):
                hint = " as the format itself, e.g. softmaxkit.Q(6, 2)" if _is_format(kind) else ""
                names = " or ".join(each.__name__ for each in _members(kind))
                raise ValueError(f"{field} is of type {names}{hint}, not {value!r}")


def check_spec(spec: object) -> None:
    """Refuse what is no spec, with a TypeError that says how to get one."""
    if isinstance(spec, type) and issubclass(spec, Spec):
        raise TypeError(f"give a spec, {spec.__name__}(), not the class {spec.__name__}")
    if not isinstance(spec, Spec):
        raise TypeError(f"a spec is made as softmaxkit.Softermax() or softmaxkit.Exaq(bits=3), not {spec!r}")


@lru_cache
def _field_types(spec: type[Spec]) -> dict[str, Any]:
    hints = typing.get_type_hints(spec)
    return {field.name: hints[field.name] for field in dataclasses.fields(spec)}


def _read(value: Any, kind: Any) -> Any:
    """Turn one JSON value into a field; the spec itself then checks its type."""
    return parse_format(value) if _is_format(kind) and isinstance(value, str) else value


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(kind) or (kind,)


def _is_format(kind: Any) -> bool:
    return set(_members(kind)) <= {Fixed, Float}


def _ldexp(mantissa: int, exponent: int) -> float:
    return float(mantissa * 2.0**exponent)


def _form(value: Any) -> Any:
    return tuple(_form(each) for each in value) if isinstance(value, tuple) else type(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
