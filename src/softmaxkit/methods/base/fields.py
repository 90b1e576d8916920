"""The fields of a spec: checked, as text, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import typing
from abc import ABC
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

from softmaxkit.formats import Fixed, Float, parse_format
from softmaxkit.suggestions import suggestion

MAX_SLICE_WIDTH = 1 << 16
"""Widest slice: the longest row of a unit."""

SCHEMA = 1
"""Version of the JSON schema of specs, constants and records."""


def is_schema(value: object) -> bool:
    """Return whether a value is the integer `SCHEMA`, which `True` and 1.0 equal without being it."""
    return type(value) is int and value == SCHEMA


@dataclasses.dataclass(frozen=True)
class Fields(ABC):
    """What a spec does with its fields alone. They are those of the dataclass that derives from this one."""

    method: ClassVar[str]
    """Name on the command line and in JSON; also the name of the method's folder."""

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

    def differing_fields(self, other: Self) -> list[str]:
        """Return the names of the fields that differ from another spec of the same method."""
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @classmethod
    def choices(cls) -> dict[str, tuple[Any, ...]]:
        """Return the allowed values of the fields that have a fixed set of them, by field name."""
        types = _types(cls).items()
        return {name: typing.get_args(kind) for name, kind in types if typing.get_origin(kind) is Literal}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: schema, method and every field, with formats as text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {key: str(value) if isinstance(value, Fixed | Float) else value for key, value in values.items()}
        return {"schema": SCHEMA, "method": self.method, **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a spec from a dict or JSON text. `Spec.from_json` reads any method; omitted fields get their defaults.

        Raises:
            ValueError: not a JSON object; an unknown schema, method or key; or a value of the wrong type.
        """
        from softmaxkit.methods import method_class

        method, fields = _method_and_fields(data)
        spec_class = method_class(method)
        if not issubclass(spec_class, cls):
            raise ValueError(f"expected a spec of {cls.method!r}, got one of {method!r}; read it with Spec.from_json")
        spec: Self = spec_class(**_values(spec_class, fields))
        return spec

    def _check_fields(self) -> None:
        """Check that each field has its declared type or is one of its choices.

        Raises:
            ValueError: a field has another type or value; the message lists what is accepted.
        """
        for name, kind in _types(type(self)).items():
            value, field = getattr(self, name), f"{type(self).__name__}.{name}"
            if typing.get_origin(kind) is Literal:
                choices = typing.get_args(kind)
                if not any(type(value) is type(choice) and value == choice for choice in choices):
                    allowed = " or ".join(repr(choice) for choice in choices)
                    raise ValueError(f"{field} must be {allowed}, got {value!r}")
            elif not (type(value) in _members(kind) or (kind is float and type(value) is int)):
                hint = ", e.g. softmaxkit.Q(6, 2)" if _is_format(kind) else ""
                names = " or ".join(member.__name__ for member in _members(kind))
                raise ValueError(f"{field} must be of type {names}{hint}, got {value!r}")


def check_slice_width(spec: Fields, width: int) -> None:
    """Check the slice width of a method that works slice by slice.

    Raises:
        ValueError: it is out of range.
    """
    if not 1 <= width <= MAX_SLICE_WIDTH:
        raise ValueError(f"{type(spec).__name__}.slice_width must be from 1 to {MAX_SLICE_WIDTH}, got {width}")


def _method_and_fields(data: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
    """Check the schema of a spec's JSON; return the method's name and the remaining keys.

    Raises:
        ValueError: `data` is not a JSON object, its schema is unknown, or it has no method.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data, object_pairs_hook=_distinct)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"a spec must be a JSON object, but this is not JSON: {error}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f'a spec must be a JSON object such as {{"schema": {SCHEMA}, "method": "METHOD"}}')
    fields = dict(data)
    schema, method = fields.pop("schema", None), fields.pop("method", None)
    if not is_schema(schema):
        hint = f'; add "schema": {SCHEMA}' if schema is None else ""
        raise ValueError(f'this version reads specs with "schema": {SCHEMA}, got {schema!r}{hint}')
    if method is None:
        raise ValueError('a spec must name its method; add "method": "METHOD"')
    return str(method), fields


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the keys and values of a JSON object, each key given once."""
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"a spec must name each key once, but {repeated[0]!r} occurs {names.count(repeated[0])} times")
    return dict(pairs)


def _values(spec_class: type[Fields], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert JSON values to the values of a spec's fields; the spec's constructor checks their types.

    Raises:
        ValueError: a key is unknown.
    """
    types = _types(spec_class)
    for key in fields:
        if key not in types:
            hint = suggestion(key, types, "its keys are")
            raise ValueError(f"a spec of {spec_class.method!r} has no key {key!r}; {hint}")
    return {
        key: parse_format(value) if _is_format(types[key]) and isinstance(value, str) else value
        for key, value in fields.items()
    }


@lru_cache
def _types(spec_class: type[Fields]) -> dict[str, Any]:
    """Return the declared types of a spec's fields, by field name."""
    hints = typing.get_type_hints(spec_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(spec_class)}


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type itself."""
    return typing.get_args(kind) or (kind,)


def _is_format(kind: Any) -> bool:
    return set(_members(kind)) <= {Fixed, Float}
