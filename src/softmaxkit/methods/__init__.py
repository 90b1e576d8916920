"""Registry of the methods: each has its own folder, and one import line below registers it.

Listings, comparisons and the page show methods in the order of these imports: the baseline first, rivals last.
"""

from __future__ import annotations

from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.exact import Exact as Exact
from softmaxkit.suggestions import suggestion

from softmaxkit.methods.consmax import ConSmax as ConSmax  # isort: skip
from softmaxkit.methods.softermax import Softermax as Softermax  # isort: skip
from softmaxkit.methods.exaq import Exaq as Exaq  # isort: skip
from softmaxkit.methods.index import Index as Index  # isort: skip
from softmaxkit.methods.sigmoid import Sigmoid as Sigmoid  # isort: skip

METHODS: dict[str, type[Spec]] = {
    value.method: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Spec) and value is not Spec
}
"""Spec class of each method, keyed by its name on the command line and in JSON."""

RIVALS: tuple[str, ...] = tuple(name for name, spec in METHODS.items() if spec.rival)
"""Names of the methods that are included only for comparison."""
ALL_METHODS: tuple[str, ...] = tuple(name for name in METHODS if name not in RIVALS)
"""Names that "all" expands to: rivals run only when named explicitly."""

BASELINE: Spec = next(spec() for spec in METHODS.values() if spec().is_baseline)
"""Exact softmax, the baseline for every comparison."""


def method_class(name: str) -> type[Spec]:
    """Return the spec class of the named method, e.g. "softermax"; case does not matter.

    Raises:
        ValueError: no method has that name.
    """
    if name.lower() not in METHODS:
        raise ValueError(f"no method is called {name!r}; {suggestion(name.lower(), METHODS, 'the methods are')}")
    return METHODS[name.lower()]
