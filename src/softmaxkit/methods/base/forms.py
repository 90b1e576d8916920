"""Forms of a method in silicon: a spec, with its constants baked in or loadable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec
    from softmaxkit.methods.base.unit import SoftmaxUnit

T = TypeVar("T")
Kind = Literal["baked", "loadable"]


class Form(NamedTuple):
    """A form of a method in silicon.

    Attributes:
        title: what is special about it, in a few words.
        spec: the method.
        baked: are its constants, those of `spec.examples()[0]`, baked in?
    """

    title: str
    spec: Spec
    baked: bool = False

    def unit(self, **sizes: Any) -> SoftmaxUnit:
        """Return the unit, of sizes as for `Spec.unit`."""
        constants = self.spec.examples()[0] if self.baked else None
        return self.spec.unit(constants=constants, **sizes)


def forms_of(spec: Spec) -> list[Form]:
    """Return the forms of one spec: with baked constants and with loadable ones, where it has constants."""
    if spec.unit().registers is None:
        return [Form("", spec)]
    return [Form("constants baked in", spec, True), Form("constants loadable", spec)]


def of_kind(units: Iterable[T], unit_of: Callable[[T], SoftmaxUnit], kind: Kind | None) -> list[T]:
    """Return the units whose constants are baked in, or those whose constants are loaded; all where `kind` is None.

    What has no constants to load counts as baked.

    Args:
        units: some units, or what they come with.
        unit_of: returns the unit.
        kind: which to keep.

    Raises:
        ValueError: there are none of this kind.
    """
    some = list(units)
    kept = [each for each in some if kind is None or (unit_of(each).registers is not None) == (kind == "loadable")]
    if not kept:
        names = ", ".join(dict.fromkeys(unit_of(each).spec.name for each in some))
        raise ValueError(f"{names} has no unit with {kind} constants; leave --constants out")
    return kept
