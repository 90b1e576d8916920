"""What a message suggests where a name is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Return "did you mean 'exaq'?" for the nearest known name, or a longer one; else `otherwise` and all of them.

    Args:
        name: what was given.
        known: the names there are.
        otherwise: what introduces the list, as "the methods are".
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1) or [longer for longer in known if name and name in longer]
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(known) or 'none'}"
