"""Suggestions in error messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Return "did you mean 'exaq'?" for the closest known name, or one that contains `name`; else list all names.

    Args:
        name: the unknown name.
        known: the valid names.
        otherwise: the introduction of the list, e.g. "the methods are".
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1) or [longer for longer in known if name and name in longer]
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known) or 'none'}"
