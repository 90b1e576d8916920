"""How a study reports its progress; it is the caller that shows it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

Stage = Callable[[str], Progress]
"""Called with the title of a piece of work as it begins; returns what to call as it advances."""

Say = Callable[[str], None]
"""Called with a line of text for the user."""
