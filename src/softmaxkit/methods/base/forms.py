"""Forms of a method in silicon: a spec, with its constants baked in or loadable."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.methods.base.unit import SoftmaxUnit

Kind = Literal["baked", "loadable"]
"""How a unit obtains its constants."""

KIND_TITLES: dict[Kind, str] = {"baked": "baked in", "loadable": "loadable"}
"""Title of each kind, as shown in tables."""


class Form(NamedTuple):
    """A form of a method in silicon.

    Attributes:
        title: short description of what distinguishes this form.
        spec: the spec.
        baked: whether its constants, `spec.examples()[0]`, are baked in.
        main: whether it also appears in short tables, which show only the main forms.
    """

    title: str
    spec: Spec
    baked: bool = False
    main: bool = True

    def unit(self, **sizes: Any) -> SoftmaxUnit:
        """Build the unit; `sizes` are those of `Spec.unit`."""
        constants = self.spec.examples()[0] if self.baked else None
        return self.spec.unit(constants=constants, **sizes)


@lru_cache
def has_constants(spec: Spec) -> bool:
    """Return whether a spec's unit, which is built to see it, has constants that can be baked in or loaded."""
    return spec.unit().registers is not None


def forms_of(spec: Spec) -> list[Form]:
    """Return the forms of one spec: with constants baked in and loadable, or a single form if it has none."""
    if not has_constants(spec):
        return [Form("", spec)]
    return [Form(f"constants {title}", spec, kind == "baked") for kind, title in KIND_TITLES.items()]
