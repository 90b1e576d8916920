"""The fields of a spec as JSON, and the checks of their types and choices."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from softmaxkit.formats import Fixed, Float, parse_format
from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec

SCHEMA = 1
"""Version of the JSON of specs, constants and records."""


def read_fields(data: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
    """Return the method's name and the other keys of a spec's JSON, its schema checked.

    Raises:
        ValueError: no JSON object, or an unknown schema.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except json.JSONDecodeError as error:
            raise ValueError(f"a spec is a JSON object, but this is no JSON: {error}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f'a spec is a JSON object such as {{"schema": {SCHEMA}, "method": "METHOD"}}')
    fields = dict(data)
    schema, method = fields.pop("schema", None), fields.pop("method", None)
    if schema != SCHEMA:
        hint = f'; add "schema": {SCHEMA}' if schema is None else ""
        raise ValueError(f'this version reads specs of "schema": {SCHEMA}, not {schema!r}{hint}')
    return str(method), fields


def read_values(spec_class: type[Spec], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Turn JSON values into those of a spec's fields; the spec itself then checks their types.

    Raises:
        ValueError: an unknown key.
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
    """Return a spec as a JSON-ready dict: schema, method, and every field; formats as text."""
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    plain = {key: str(value) if isinstance(value, Fixed | Float) else value for key, value in values.items()}
    return {"schema": SCHEMA, "method": spec.method, **plain}


def check_fields(spec: Spec) -> None:
    """Refuse fields that hold another type than theirs, or none of their choices.

    Raises:
        ValueError: a field does, with what it may hold.
    """
    for name, kind in field_types(type(spec)).items():
        value, field = getattr(spec, name), f"{type(spec).__name__}.{name}"
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                allowed = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"{field} is {allowed}, not {value!r}")
        elif not (type(value) in _members(kind) or (kind is float and type(value) is int)):
            hint = " as the format itself, e.g. softmaxkit.Q(6, 2)" if _is_format(kind) else ""
            names = " or ".join(member.__name__ for member in _members(kind))
            raise ValueError(f"{field} is of type {names}{hint}, not {value!r}")


def field_choices(spec_class: type[Spec]) -> dict[str, tuple[Any, ...]]:
    """Return the choices of the fields that have few."""
    types = field_types(spec_class).items()
    return {name: typing.get_args(kind) for name, kind in types if typing.get_origin(kind) is Literal}


@lru_cache
def field_types(spec_class: type[Spec]) -> dict[str, Any]:
    """Return the types of a spec's fields, by name."""
    hints = typing.get_type_hints(spec_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(spec_class)}


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(kind) or (kind,)


def _is_format(kind: Any) -> bool:
    return set(_members(kind)) <= {Fixed, Float}
