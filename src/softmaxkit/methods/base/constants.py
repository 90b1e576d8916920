"""Constants: the integers that a trained or calibrated layer or head adds to a spec."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from softmaxkit.formats import Array
from softmaxkit.tables import per_head


@dataclasses.dataclass(frozen=True)
class Constants:
    """The integers of one layer or head. Where heads are stacked, each field is a tuple with one entry per head.

    Attributes:
        scale: score scale as `(mantissa, exponent)`: a score code `c` represents `c * mantissa * 2**exponent`.
        form: `Spec.constants_form` of the spec that built them; 0 if read from an older checkpoint without it.
    """

    scale: Any
    form: int = dataclasses.field(default=0, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build constants from the output of `to_json`.

        Raises:
            ValueError: keys are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(data) | {"form"} != names:
            raise ValueError(f"{cls.__name__} must have the keys {sorted(names)}, got {sorted(data)}")
        return cls(**{name: _tuples(value) for name, value in data.items()})

    def fits(self, other: Constants) -> bool:
        """Return whether all fields have the same structure as in `other`: the same types and table lengths."""
        return type(self) is type(other) and _form(dataclasses.astuple(self)) == _form(dataclasses.astuple(other))

    @property
    def heads(self) -> int | None:
        """Number of stacked heads; None for the constants of one head."""
        return len(self.scale) if isinstance(self.scale[0], tuple) else None

    @classmethod
    def stack(cls, heads: Sequence[Self]) -> Self:
        """Stack the constants of several heads, for codes of shape (..., heads, queries, keys).

        Raises:
            ValueError: they belong to different specs.
        """
        if len(forms := {head.form for head in heads}) > 1:
            raise ValueError(f"constants of heads to stack must be of one spec, got the forms {sorted(forms)}")
        names = [field.name for field in dataclasses.fields(cls) if not field.kw_only]
        return cls(**{name: tuple(getattr(head, name) for head in heads) for name in names}, form=heads[0].form)

    def of_head(self, head: int) -> Self:
        """Return the constants of one head; `self` if heads are not stacked."""
        if self.heads is None:
            return self
        stacked = [field.name for field in dataclasses.fields(self) if not field.kw_only]
        return dataclasses.replace(self, **{name: getattr(self, name)[head] for name in stacked})

    @property
    def real_scale(self) -> float | tuple[float, ...]:
        """The score scale as a float; a tuple with one per head if heads are stacked."""
        if self.heads is not None:
            return tuple(_ldexp(*scale) for scale in self.scale)
        return _ldexp(*self.scale)

    def score_scale(self, codes: Array) -> Any:
        """Return the score scale: a float, or for stacked heads float64 (heads, 1, 1), NumPy or torch like `codes`."""
        return per_head(self.real_scale, codes)


class Sets(NamedTuple):
    """Constants of several heads, for a unit with several sets of constants.

    Attributes:
        heads: the constants of each set, in order.
    """

    heads: tuple[Any, ...]


def encode_scale(scale: float) -> tuple[int, int]:
    """Round a positive scale to integers `(mantissa, exponent)`: `mantissa * 2**exponent`, 16 significant bits.

    Powers of two, and all other numbers of up to 16 significant bits, are represented exactly.

    Raises:
        ValueError: the scale is not between 2**-64 and 2**64.
    """
    if not 2.0**-64 <= scale <= 2.0**64:
        raise ValueError(f"a score scale must be positive, finite and between 2**-64 and 2**64, got {scale}")
    fraction, exponent = math.frexp(scale)
    mantissa = round(fraction * 2**16)
    shift = (mantissa & -mantissa).bit_length() - 1
    return mantissa >> shift, exponent - 16 + shift


def _ldexp(mantissa: int, exponent: int) -> float:
    return float(mantissa * 2.0**exponent)


def _form(value: Any) -> Any:
    return tuple(_form(item) for item in value) if isinstance(value, tuple) else type(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
