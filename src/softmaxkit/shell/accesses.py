"""What software, or logic that drives ports in its place, does in a shell's test bench, and the expected answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from amaranth.lib.wiring import In

from softmaxkit.shell.axi import OKAY, SLVERR
from softmaxkit.shell.register_map import WORD, Access, Register, RegisterMap
from softmaxkit.shell.row_length import LENGTH_PORTS
from softmaxkit.shell.status import STATUS_PORTS

if TYPE_CHECKING:
    import numpy as np

    from softmaxkit.shell.options import ShellOptions

WHOLE = 0b1111
"""Strobes of a write of all four bytes."""


class When(NamedTuple):
    """What an access of the test bench waits for.

    Attributes:
        scores, results: numbers of beats of scores accepted and of results received.
        others: number of accesses of the other kind, reads for a write and writes for a read, that are finished.
        settled: whether to wait for the results too, and until the shell is still.
    """

    scores: int
    results: int
    others: int = 0
    settled: bool = False


class Write(NamedTuple):
    """A write of a register, or of a word of constants to `s_axis_cfg`, which does not respond."""

    when: When
    address: int
    strobes: int
    word: int
    response: int = OKAY


class Read(NamedTuple):
    """A read of a register, with the expected word, response and, if it is known, interrupt."""

    when: When
    address: int
    interrupt: int | None
    word: int
    response: int


class Step(NamedTuple):
    """New values of input ports, and those of output ports before; only a settled step compares these, if known."""

    when: When
    outputs: tuple[int | None, ...]
    inputs: tuple[int, ...]


def lines(accesses: Iterable[Write | Read | Step]) -> list[str]:
    """Return accesses as lines for `$readmemh`, with 8 digits for every field; what is unknown has all bits set."""
    fields = [
        [word for part in access for word in (part if isinstance(part, tuple) else (part,))] for access in accesses
    ]
    return ["_".join(f"{(-1 if word is None else word) & 0xFFFFFFFF:08x}" for word in words) for words in fields]


class Software:
    """Accesses through AXI4-Lite, with the words and responses that follow from the register map.

    Args:
        registers: the register map.
        random: draws addresses and words that matter to no row.

    Attributes:
        writes, reads: so far.
        words: what a read of a register of the shell returns, by name; the caller changes those that hardware sets.
        at: numbers of beats of scores and results before the next access.
    """

    def __init__(self, registers: RegisterMap, random: np.random.Generator) -> None:
        self.map, self.random = registers, random
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.at = (0, 0)
        self.words = {register.name: _resets(register) for register in registers.registers}
        self._registers = {register.address: register for register in registers.registers}
        self._constants = {
            registers.base + of_set * registers.stride + table.address + WORD * word: 0
            for of_set in range(registers.sets)
            for table in registers.tables
            for word in range(table.words)
        }
        known = {*self._registers, *self._constants}
        self._nowhere = [place for place in range(0, 1 << registers.address_bits, WORD) if place not in known]
        self._fixed = [r.address for r in registers.registers if not _bits(r, "write", "clear ones", "clear", "pulse")]
        self._steady = [r.address for r in registers.registers if not _bits(r, "read", "clear ones", "clear")]
        self._last_read = 0  # number of reads up to the last whose answer a write may change

    def address(self, name: str) -> int:
        """Return the address of a register of the shell."""
        return next(place for place, register in self._registers.items() if register.name == name)

    def write(self, place: int, word: int, settled: bool = False, strobes: int = WHOLE) -> None:
        """Write a word."""
        writable = place in self._constants or (place in self._registers and place not in self._fixed)
        wrong = not writable if strobes == WHOLE else strobes != 0
        when = When(*self.at, self._last_read, settled)
        self.writes.append(Write(when, self._byte(place), strobes, word, SLVERR if wrong else OKAY))
        if strobes != WHOLE or not writable:
            return
        if place in self._constants:
            self._constants[place] = word & ((1 << self.map.data_bits) - 1)
            return
        register = self._registers[place]
        written, cleared = _bits(register, "write"), _bits(register, "clear") | (word & _bits(register, "clear ones"))
        self.words[register.name] = (self.words[register.name] & ~written & ~cleared) | (word & written)

    def read(self, place: int, settled: bool = False, interrupt: int | None = None) -> None:
        """Read a word: of a register that a row changes, only once the shell has settled."""
        word, response = 0, OKAY
        if place in self._registers:
            register = self._registers[place]
            word = self.words[register.name]
            if register.sign_bits and word >> (31 - register.sign_bits):
                word |= -1 << (32 - register.sign_bits)
        elif place in self._constants and self.map.readable:
            word = self._constants[place]
        else:
            response = SLVERR
        changes = settled or place not in (*self._nowhere, *self._fixed)
        when = When(*self.at, len(self.writes) if changes else 0, settled)
        self.reads.append(Read(when, self._byte(place), interrupt, word & 0xFFFFFFFF, response))
        if changes:
            self._last_read = len(self.reads)

    def write_in_vain(self) -> None:
        """Write a word without effect: where no register can be written, or not all bytes of one."""
        writable = [place for place in (*self._registers, *self._constants) if place not in self._fixed]
        places = (self._nowhere, self._fixed, writable)[self.random.integers(3)] or self._fixed
        strobes = (0, int(self.random.integers(1, WHOLE)), WHOLE)[self.random.integers(2 if places is writable else 3)]
        self.write(int(self.random.choice(places)), self._noise(), strobes=strobes)

    def read_steady(self) -> None:
        """Read what no row changes."""
        places = (self._steady, self._nowhere, [*self._constants])[self.random.integers(3)] or self._steady
        self.read(int(self.random.choice(places)))

    def read_constants(self) -> None:
        """Read all constants, and the words behind each table and set."""
        last = (1 << self.map.address_bits) - WORD
        for place in sorted({min(place + after, last) for place in self._constants for after in (0, WORD)}):
            self.read(place, settled=True)

    def set_number(self, name: str, value: int) -> None:
        """Write the register of a parameter of rows, or of the enabled interrupts; bits above its fields are random."""
        place = self.address(name.removesuffix("_restart"))
        bits = sum(field.bits for field in self._registers[place].fields)
        self.write(place, (value & ((1 << bits) - 1)) | (self._noise() >> bits << bits))

    def clear(self, name: str, bits: int) -> None:
        """Clear errors or a count, once the shell has settled."""
        self.write(self.address(name), bits, settled=True)

    def check(self) -> None:
        """Read what hardware or software sets, once the shell has settled."""
        enabled = self.words.get("interrupt_enable")
        interrupt = None if enabled is None else int(self.words["errors"] & enabled != 0)
        for place, register in self._registers.items():
            if _bits(register, "read", "clear ones", "clear", "write"):
                self.read(place, settled=True, interrupt=interrupt)

    def check_busy(self) -> None:
        """Read that a row is inside."""
        self.words["state"] = 1
        self.read(self.address("state"), settled=True)

    def _byte(self, place: int) -> int:
        """Return the address of a byte of a word: the lowest bits are ignored."""
        return place + int(self.random.integers(WORD))

    def _noise(self) -> int:
        return int(self.random.integers(1 << 32))


class Ports:
    """The same as `Software` for a shell with ports for status and parameters.

    Attributes:
        inputs, outputs: names of the ports.
        steps: so far.
        words: expected outputs, by name.
        at: numbers of beats of scores and results before the next step.
    """

    def __init__(self, options: ShellOptions) -> None:
        ports = {**(STATUS_PORTS if options.status else {}), **(LENGTH_PORTS if options.row_length else {})}
        self.inputs = [name for name, port in ports.items() if port.flow == In]
        self.outputs = [name for name in ports if name not in self.inputs] + ["irq"] * options.status
        self.steps: list[Step] = []
        self.words = dict.fromkeys(self.outputs, 0)
        self.at = (0, 0)
        self._values = dict.fromkeys(self.inputs, 0)

    def set_number(self, name: str, value: int) -> None:
        """Set a parameter of rows, or the enabled interrupts; a restart is a pulse."""
        self._step(settled=False, **{name: value})
        if name == "block_restart":
            self._step(settled=False, **{name: 0})

    def clear(self, name: str, bits: int) -> None:
        """Clear errors or a count, once the shell has settled."""
        self._step(settled=True, **{f"{name}_clear": bits})
        self.words[name] &= ~bits if name == "errors" else 0
        self._step(settled=True, **{f"{name}_clear": 0})

    def check(self) -> None:
        """Compare all outputs, once the shell has settled."""
        if self.outputs:
            self._step(settled=True)

    def check_busy(self) -> None:
        """Compare that a row is inside."""
        if self.outputs:
            when = When(*self.at, settled=True)
            self.steps.append(Step(when, (1, *[None] * (len(self.outputs) - 1)), tuple(self._values.values())))

    def _step(self, settled: bool, **changes: int) -> None:
        if self.outputs:
            self.words["irq"] = int(self.words["errors"] & self._values["interrupt_enable"] != 0)
        self._values |= changes
        when = When(*self.at, settled=settled)
        self.steps.append(Step(when, tuple(self.words.values()), tuple(self._values.values())))


def _resets(register: Register) -> int:
    """Return what a read of a register returns after a reset."""
    return sum(field.reset << at for field, at in register.places)


def _bits(register: Register, *access: Access) -> int:
    """Return the bits of the fields that software accesses so."""
    return sum((1 << field.bits) - 1 << at for field, at in register.places if field.access in access)
