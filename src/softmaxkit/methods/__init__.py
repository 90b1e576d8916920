"""The methods, a folder each. The imports below are the registry: a line a method."""

from __future__ import annotations

from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.exact import Exact as Exact
from softmaxkit.suggestions import suggestion

from softmaxkit.methods.consmax import ConSmax as ConSmax  # isort: skip  # the order is that of every listing
from softmaxkit.methods.softermax import Softermax as Softermax  # isort: skip
from softmaxkit.methods.exaq import Exaq as Exaq  # isort: skip
from softmaxkit.methods.index import Index as Index  # isort: skip
from softmaxkit.methods.sigmoid import Sigmoid as Sigmoid  # isort: skip

METHODS: dict[str, type[Spec]] = {
    value.method: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Spec) and value is not Spec
}
"""The spec class of every method, by its name on the command line and in JSON."""

RIVALS: tuple[str, ...] = tuple(name for name, spec in METHODS.items() if spec.rival)
"""The names of those that are here to be compared with."""
ALL_METHODS: tuple[str, ...] = tuple(name for name in METHODS if name not in RIVALS)
"""The names that "all" stands for: rivals are taken only where they are named."""

BASELINE: Spec = next(spec() for spec in METHODS.values() if spec().is_baseline)
"""Exact softmax, which all methods are compared with."""


def method_class(name: str) -> type[Spec]:
    """Return the spec class of a method by its name, e.g. "softermax", in upper or lower case.

    Raises:
        ValueError: there is no such method.
    """
    if name.lower() not in METHODS:
        raise ValueError(f"no method is called {name!r}; {suggestion(name.lower(), METHODS, 'the methods are')}")
    return METHODS[name.lower()]
