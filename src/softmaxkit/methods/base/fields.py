"""Reading, writing and checking the fields of a spec."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from softmaxkit.formats import Fixed, Float, parse_format
from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec

MAX_SLICE_WIDTH = 1 << 16
"""Widest slice: the longest row of a unit."""

SCHEMA = 1
"""Version of the JSON schema of specs, constants and records."""


def read_fields(data: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
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
    if schema != SCHEMA:
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


def read_values(spec_class: type[Spec], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert JSON values to the values of a spec's fields; the spec's constructor checks their types.

    Raises:
        ValueError: a key is unknown.
    """
    types = field_types(spec_class)
    for key in fields:
        if key not in types:
            hint = suggestion(key, types, "its keys are")
            raise ValueError(f"a spec of {spec_class.method!r} has no key {key!r}; {hint}")
    return {
        key: parse_format(value) if _is_format(types[key]) and isinstance(value, str) else value
        for key, value in fields.items()
    }


def write_fields(spec: Spec) -> dict[str, Any]:
    """Return a spec as a JSON-ready dict: schema, method and every field, with formats as text."""
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    plain = {key: str(value) if isinstance(value, Fixed | Float) else value for key, value in values.items()}
    return {"schema": SCHEMA, "method": spec.method, **plain}


def check_fields(spec: Spec) -> None:
    """Check that each field has its declared type or is one of its choices.

    Raises:
        ValueError: a field has another type or value; the message lists what is accepted.
    """
    for name, kind in field_types(type(spec)).items():
        value, field = getattr(spec, name), f"{type(spec).__name__}.{name}"
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                allowed = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"{field} must be {allowed}, got {value!r}")
        elif not (type(value) in _members(kind) or (kind is float and type(value) is int)):
            hint = ", e.g. softmaxkit.Q(6, 2)" if _is_format(kind) else ""
            names = " or ".join(member.__name__ for member in _members(kind))
            raise ValueError(f"{field} must be of type {names}{hint}, got {value!r}")


def check_slice_width(spec: Spec, width: int) -> None:
    """Check the slice width of a method that works slice by slice.

    Raises:
        ValueError: it is out of range.
    """
    if not 1 <= width <= MAX_SLICE_WIDTH:
        raise ValueError(f"{type(spec).__name__}.slice_width must be from 1 to {MAX_SLICE_WIDTH}, got {width}")


def field_choices(spec_class: type[Spec]) -> dict[str, tuple[Any, ...]]:
    """Return the allowed values of the fields that have a fixed set of them, by field name."""
    types = field_types(spec_class).items()
    return {name: typing.get_args(kind) for name, kind in types if typing.get_origin(kind) is Literal}


@lru_cache
def field_types(spec_class: type[Spec]) -> dict[str, Any]:
    """Return the declared types of a spec's fields, by field name."""
    hints = typing.get_type_hints(spec_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(spec_class)}


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type itself."""
    return typing.get_args(kind) or (kind,)


def _is_format(kind: Any) -> bool:
    return set(_members(kind)) <= {Fixed, Float}
