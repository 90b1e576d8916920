"""Suggestions in error messages about unknown names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def suggestion(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Return "did you mean 'exaq'?" for the closest known name, or one within or around `name`; else list all names.

    Args:
        name: the unknown name.
        known: the valid names.
        otherwise: the introduction of the list, e.g. "the methods are".
    """
    known = list(known)
    near = closest(name, known)
    return f"{otherwise} {', '.join(known) or 'none'}" if near is None else f"did you mean {near!r}?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the closest known name, or one within or around `name`, in any case; None if there is neither."""
    lower, names = name.lower(), {other.lower(): other for other in known}
    near = difflib.get_close_matches(lower, names, n=1)
    near = near or [other for other in names if lower and (lower in other or (len(other) > 2 and other in lower))]
    return names[near[0]] if near else None


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's arguments, without those that stand for any number of others."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind not in several]
