"""How constants are loaded into a unit: the register values, the writes, and several sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.methods.base.spec import Spec


class LoadsConstants:
    """A unit with loadable constants.

    Attributes:
        spec: the spec.
        registers: register map of the port `configuration`; None if the constants are baked in, or there are none.
    """

    spec: Spec
    registers: RegisterMap | None

    @property
    def sets(self) -> int:
        """Number of sets of constants."""
        return self.registers.sets if self.registers else 1

    @property
    def set_bits(self) -> int:
        """Width of the index of a set in bits; 0 if there is one set."""
        return self.registers.set_bits if self.registers else 0

    def loads(self, constants: Sequence[Constants]) -> Sequence[Any]:
        """Return the constants to load in turn when testing the unit with the constants of some heads.

        With several sets these are two or more `Sets`, filled from the heads and, so that sets differ, from the spec's
        examples.
        """
        if self.sets == 1:
            return constants
        heads = list(dict.fromkeys([*constants, *self.spec.examples()]))
        starts = [*range(0, len(heads), self.sets), 1]
        return [Sets(tuple(heads[(start + i) % len(heads)] for i in range(self.sets))) for start in starts]

    def writes(self, constants: Constants | Sets) -> list[tuple[int, int]]:
        """Return the writes, `(address, data)`, that load constants through the port `configuration`.

        The constants of a single head are written to the first set.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the unit has no loadable constants or too few sets, or a value does not fit its register.
        """
        if self.registers is None:
            raise ValueError("this unit has no port to load constants; build it with constants=None")
        heads = constants.heads if isinstance(constants, Sets) else (constants,)
        if len(heads) > self.sets:
            raise ValueError(f"this unit has {self.sets} sets of constants, got {len(heads)}")
        for head in heads:
            check_constants(self.spec, head)
        return [write for index, head in enumerate(heads) for write in self.registers.writes(self.loaded(head), index)]

    def loaded(self, constants: Any) -> dict[str, int | Sequence[int]]:
        """Return the register values for some constants, by their names in `registers`."""
        raise NotImplementedError(f"{type(self).__name__} has a register map, so it must implement loaded()")


def check_constants(spec: Spec, constants: Constants) -> None:
    """Check that constants belong to the spec and to a single head.

    Raises:
        TypeError: they belong to another method.
        ValueError: they have another form, or are those of several heads.
    """
    spec.check_constants(constants)
    if constants.heads is not None:
        raise ValueError(
            f"a unit requires the constants of one head, got those of {constants.heads}; select one, e.g. "
            "constants.of_head(0)"
        )
