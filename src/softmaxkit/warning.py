"""Warn the user."""

from __future__ import annotations

import inspect
import warnings

THROUGH = ("softmaxkit", "torch", "transformers", "accelerate", "peft", "contextlib", "functools")
"""Modules through which a call of the user may come here."""


def warn(message: str) -> None:
    """Warn with a UserWarning that names the line of the user's own code."""
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in THROUGH:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
