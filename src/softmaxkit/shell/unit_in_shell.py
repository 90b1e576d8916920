"""A unit in its shell as one component, for simulation and synthesis of the whole."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.shell import Shell


class UnitInShell(wiring.Component):
    """A unit in its shell, with the outer ports of the shell and the memory ports of the unit.

    Args:
        unit: to instantiate.
        options: parts of the shell.

    Raises:
        ValueError: options that conflict with each other or with the unit.
    """

    def __init__(self, unit: SoftmaxUnit, options: ShellOptions) -> None:
        self.unit, self.shell = unit, Shell(unit, options)
        self.memories = unit.memories
        super().__init__({**self.shell.outside, **{name: unit.signature.members[name] for name in unit.memories}})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        m.submodules.unit, m.submodules.shell = self.unit, self.shell
        for name in self.shell.inside:
            wiring.connect(m, getattr(self.shell, name), getattr(self.unit, name))
        for name, member in self.shell.outside.items():
            own, inner = getattr(self, name), getattr(self.shell, name)
            if member.is_signature:
                wiring.connect(m, wiring.flipped(own), inner)
            else:
                m.d.comb += inner.eq(own) if member.flow == In else own.eq(inner)
        for name in self.memories:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.unit, name))
        return m
