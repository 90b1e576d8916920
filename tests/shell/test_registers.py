"""AXI4-Lite: reads and writes in any order, against a Python model; and the transfer of constants to the unit."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cycles import Manager, Sink, clocked
from mutants import broken

from softmaxkit import ConSmax, Spec
from softmaxkit.methods import method_class
from softmaxkit.shell import axi_lite, constants, registers, software_side
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.register_map import RegisterMap
from softmaxkit.shell.shell import Shell

SPEC = ConSmax()
STATE = 0x08
"""Address of the register whose value only hardware knows."""
ALL = ShellOptions(keep=True, row_length=True, status=True, axi_lite=True)


def small_shell(spec: Spec = SPEC, **options: Any) -> Shell:
    return Shell(spec.unit(lanes=2, max_row=6), ShellOptions(**{**vars(ALL), **options}))


class RegisterModel:
    """A model of the registers."""

    def __init__(self, registers: RegisterMap) -> None:
        self.map, self.words = registers, dict[int, int]()
        self.fields = {register.address: register.fields for register in registers.registers}

    def constant(self, address: int) -> int | None:
        """Return the width of the constant at an address; None if there is none."""
        offset = address - self.map.base
        if not 0 <= offset < self.map.stride * self.map.sets:
            return None
        for table in self.map.tables:
            if table.address <= offset % self.map.stride < table.address + 4 * table.words:
                return max(constant.bits for constant in self.map.tables)
        return None

    def write(self, address: int, word: int, strobe: int) -> int:
        address &= ~3
        if strobe == 0:
            return 0
        if strobe != 15:
            return 2
        if bits := self.constant(address):
            self.words[address] = word & ((1 << bits) - 1)
            return 0
        fields = self.fields.get(address, ())
        if all(field.access in ("constant", "read") for field in fields):
            return 2
        if all(field.access == "write" for field in fields):
            self.words[address] = word & ((1 << sum(field.bits for field in fields)) - 1)
        return 0

    def read(self, address: int) -> tuple[int, int]:
        address &= ~3
        if self.constant(address):
            return (0, self.words.get(address, 0)) if self.map.readable else (2, 0)
        if address not in self.fields:
            return 2, 0
        word, at = 0, 0
        for field in self.fields[address]:
            word, at = word | (field.reset if field.access in ("constant", "write") else 0) << at, at + field.bits
        word = self.words.get(address, word)
        if self.fields[address][0].signed and word >> (at - 1):
            word |= 0xFFFFFFFF & -1 << at
        return 0, word


def addresses(registers: RegisterMap) -> list[int]:
    """Return the addresses of all registers, of some constants, and some where nothing is mapped."""
    places = [register.address for register in registers.registers]
    for of_set in range(registers.sets):
        first = registers.base + of_set * registers.stride
        places += [first + table.address + 4 * (table.words - 1) for table in registers.tables]
        places += [first + 4 * sum(table.words for table in registers.tables), first + registers.stride - 4]
    beyond = registers.base + registers.sets * registers.stride
    every = [*places, *(at + 2 for at in places[:4]), 0x38, 0x3C, beyond]
    return [place for place in every if place < 1 << registers.address_bits]


def check_random_accesses(top: Shell, pause: float, cycles: int, seed: int = 0) -> None:
    """Write and read at random addresses and check the responses, with occasional resets."""
    rng, model = random.Random(seed), RegisterModel(top.map)
    bus, places = Manager(top.s_axil, pause, rng), addresses(top.map)
    bus.reads = [register.address for register in top.map.registers]  # as they are after a reset
    expected: dict[str, list[Any]] = {"b": [], "r": [model.read(place) for place in bus.reads]}

    def cycle(at: int, context: Any) -> bool:
        nonlocal model
        if hasattr(top, "configuration"):
            context.set(top.configuration.ready, 1)
        if bus.idle and rng.random() < 0.7:
            if rng.random() < 0.6:
                for _ in range(rng.choice([1, 5])):
                    place, word, strobe = (
                        rng.choice(places),
                        rng.getrandbits(32),
                        rng.choice([15] * 4 + [0, rng.randrange(16)]),
                    )
                    bus.writes.append((place, word, strobe))
                    expected["b"].append(model.write(place, word, strobe))
            else:  # words of the copy are unknown until they are written
                known = [
                    address
                    for address in places
                    if not model.constant(address & ~3) or address & ~3 in model.words or not model.map.readable
                ]
                for _ in range(rng.choice([1, 5])):
                    bus.reads.append(rng.choice(known))
                    expected["r"].append(model.read(bus.reads[-1]))
        bus.drive(context)
        for channel in bus.step(context):
            if channel == "b":
                at = len(bus.responses) - 1
                assert bus.responses[at] == expected["b"][at], f"write to {bus.writes[at][0]:#x}"
            if channel == "r":
                at = len(bus.answers) - 1
                got, right = bus.answers[at], expected["r"][at]
                if bus.reads[at] & ~3 == STATE:
                    got = (got[0], 0)
                assert got == right or (got[0] == right[0] == 2), f"read of {bus.reads[at]:#x}"
        if bus.idle and rng.random() < 0.002:
            words = {at: word for at, word in model.words.items() if model.constant(at) and model.map.readable}
            model = RegisterModel(top.map)
            model.words = words  # a reset does not clear memories
            return True
        return False

    clocked(top, cycle, cycles)
    assert len(bus.responses) > cycles * (1 - pause) ** 2 / 40
    assert len(bus.answers) > cycles * (1 - pause) ** 2 / 40


@pytest.mark.parametrize(
    ("options", "pause"),
    [
        ({}, 0.0),
        ({"read_back": True, "tags": 4}, 0.6),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (({}, 0.6), ({"read_back": True}, 0.0))),
    ],
    ids=str,
)
def test_registers_answer(options: dict[str, Any], pause: float) -> None:
    check_random_accesses(small_shell(**options), pause, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["softermax", "exaq", "consmax", "sigmoid"])
def test_registers_answer_for_long(method: str) -> None:
    spec = method_class(method)()
    loadable = spec.unit(lanes=2).registers is not None
    for seed, pause in enumerate((0.0, 0.3, 0.9)):
        check_random_accesses(small_shell(spec, read_back=loadable and seed > 0), pause, 8000, seed)


def test_reads_and_writes_do_not_wait_for_one_another() -> None:
    """Reads do not even wait for a write that waits for the unit."""
    top, rng = small_shell(), random.Random(0)
    bus = Manager(top.s_axil, 0.0, rng)
    base = top.map.base
    bus.writes = [(base, 1, 15), (base + 4, 2, 15)]
    bus.reads = [0x00] * 10

    def cycle(at: int, context: Any) -> bool:
        bus.drive(context)
        bus.step(context)
        return False

    clocked(top, cycle, 100)
    assert bus.responses == [0]  # the second waits for the first, which the unit does not accept
    assert len(bus.answers) == 10


def check_loading(options: dict[str, Any], pause: float, seed: int = 0, groups: int = 4) -> None:
    """Write groups of constants, and check what the unit receives."""
    top, rng = small_shell(**options), random.Random(seed)
    words, bus, sink = top.unit.registers, Manager(top.s_axil, pause, rng), Sink(top.configuration, pause, rng)
    load = next(register.address for register in top.map.registers if register.name == "constants")
    copy, expected, written = dict[int, int](), list[int](), 0

    def cycle(at: int, context: Any) -> bool | None:
        nonlocal written
        if bus.idle and len(sink.words) == len(expected) and written == groups:
            return None
        if bus.idle and len(sink.words) == len(expected) and written < groups:
            places = [rng.randrange(words.words) for _ in range(rng.choice([1, 2, 30]))]
            group = [(place, rng.getrandbits(words.data_bits)) for place in (places if written else range(words.words))]
            bus.writes += [(top.map.base + 4 * place, word, 15) for place, word in group] + [(load, 1, 15)]
            copy.update(group)
            given = [*copy.items()] if options.get("read_back") else group
            for last, (place, word) in zip([0] * (len(given) - 1) + [1], given, strict=True):
                expected.append(place | word << words.address_bits | last << (words.address_bits + words.data_bits))
            written += 1
        bus.drive(context)
        sink.drive(context)
        sink.given(context)
        bus.step(context)
        return False

    clocked(top, cycle, int(500 * groups / (1 - pause) ** 2))
    assert written == groups
    assert set(bus.responses) == {0}
    assert sink.words == expected


@pytest.mark.parametrize("options", [{}, {"read_back": True}], ids=str)
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_groups_reach_the_unit(options: dict[str, Any], pause: float) -> None:
    check_loading(options, pause)


@pytest.mark.parametrize(
    ("module", "name", "right", "wrong"),
    [
        (
            axi_lite,
            "AxiLiteSubordinate",
            "complete = addressed & filled & ~bus.bvalid",
            "complete = addressed & filled",
        ),
        (axi_lite, "AxiLiteSubordinate", "Mux(whole, self.write_error, strobe.any())", "self.write_error"),
        (axi_lite, "AxiLiteSubordinate", "write.valid.eq(complete & whole)", "write.valid.eq(complete)"),
        (axi_lite, "AxiLiteSubordinate", "~addressed & ~coming & ~bus.rvalid", "~addressed & ~coming"),
        (axi_lite, "AxiLiteSubordinate", "bus.bresp.eq(Mux(wrong, SLVERR, OKAY))", "bus.bresp.eq(OKAY)"),
        (registers, "Registers", "write.p.address - registers.base // WORD", "write.p.address"),
        (registers, "Registers", "whole.as_signed() if register.sign_bits else whole", "whole"),
        (registers, "Registers", "] < words", "] <= words"),
        (registers, "Registers", "init=field.reset", "init=0"),
    ],
)
def test_faults_of_the_bus_show(
    module: Any, name: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software_side, name, broken(module, name, right, wrong))
    with pytest.raises(AssertionError):
        check_random_accesses(small_shell(read_back=True, tags=3), 0.6, 8000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read_back", "right", "wrong"),
    [
        (False, "write.ready.eq(~waiting | (target.ready & ~closes))", "write.ready.eq(1)"),
        (False, "target.p.last.eq(closes)", "target.p.last.eq(closing)"),
        (False, "target.valid.eq(waiting & (write.valid | closes))", "target.valid.eq(waiting)"),
        (True, "fetching & (~target.valid | target.ready)", "fetching"),
        (True, "(~fetching | moves) & (", "("),
        (True, "target.p.last.eq(index == words)", "target.p.last.eq(index == words - 1)"),
        (True, "address: Value = index - 1", "address: Value = index"),
        (True, "m.d.sync += stale.eq(1)", "m.d.sync += stale.eq(0)"),
    ],
)
def test_faults_of_the_constants_show(read_back: bool, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ConstantsCopy" if read_back else "ConstantsPassage"
    monkeypatch.setattr(software_side, name, broken(constants, name, right, wrong))
    with pytest.raises(AssertionError):
        check_loading({"read_back": read_back}, 0.4, groups=2)
