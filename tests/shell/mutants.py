"""Parts of the shell with a fault in their source."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any


def broken(module: ModuleType, name: str, right: str, wrong: str) -> Any:
    """Return a class or function of a module in whose source the only occurrence of `right` is replaced by `wrong`."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} is in {module.__name__} {source.count(right)} times"
    names: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(source.replace(right, wrong), module.__name__, "exec"), names)
    return names[name]
