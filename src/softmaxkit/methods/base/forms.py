"""Forms of a method in silicon: a spec, with its constants baked in or loadable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.methods.base.unit import SoftmaxUnit

Kind = Literal["baked", "loadable"]
"""How a unit comes to its constants."""

KIND_TITLES: dict[Kind, str] = {"baked": "baked in", "loadable": "loadable"}
"""What is said of the constants."""


class Form(NamedTuple):
    """A form of a method in silicon.

    Attributes:
        title: what is special about it, in a few words.
        spec: the method.
        baked: are its constants, those of `spec.examples()[0]`, baked in?
        main: is it one of those that stand for the method where there is room for few?
    """

    title: str
    spec: Spec
    baked: bool = False
    main: bool = True

    def unit(self, **sizes: Any) -> SoftmaxUnit:
        """Return the unit, of sizes as for `Spec.unit`."""
        constants = self.spec.examples()[0] if self.baked else None
        return self.spec.unit(constants=constants, **sizes)


def has_constants(spec: Spec) -> bool:
    """Return whether a spec's unit has constants, which can be baked in or loaded."""
    return spec.unit().registers is not None


def forms_of(spec: Spec) -> list[Form]:
    """Return the forms of one spec: with baked constants and with loadable ones, where it has constants."""
    if not has_constants(spec):
        return [Form("", spec)]
    return [Form(f"constants {title}", spec, kind == "baked") for kind, title in KIND_TITLES.items()]
