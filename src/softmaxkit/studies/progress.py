"""Types of the callbacks by which a study reports progress, which its caller displays."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""

Stage = Callable[[str], Progress]
"""Called with the title of a task when it begins; returns the callback for its progress."""

Say = Callable[[str], None]
"""Called with a line of text for the user."""
