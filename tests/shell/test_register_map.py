"""The register map that software is written against: it may change only with its version."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from softmaxkit import ConSmax, Exact
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.register_map import Field, Register, RegisterMap, register_map

ALL: dict[str, Any] = {"status": True, "row_length": True}
VERSION_1 = {
    0x00: ("identity", [("version", 8, "constant", 1), ("lanes", 9, "constant", 4)]),
    0x04: ("capacity", [("max_row", 17, "constant", 100)]),
    0x08: ("state", [("busy", 1, "read", 0), ("loading", 1, "read", 0)]),
    0x0C: ("errors", [("row_too_long", 1, "clear ones", 0), ("row_empty", 1, "clear ones", 0)]),
    0x10: ("interrupt_enable", [("row_too_long", 1, "write", 0), ("row_empty", 1, "write", 0)]),
    0x14: ("saturated_scores", [("count", 32, "clear", 0)]),
    0x18: ("saturated_results", [("count", 32, "clear", 0)]),
    0x20: ("row_length", [("positions", 17, "write", 100)]),
    0x24: ("causal", [("enable", 1, "write", 0)]),
    0x28: ("causal_offset", [("offset", 18, "write", 0)]),
    0x2C: ("block_rows", [("rows", 17, "write", 0)]),
    0x30: ("block", [("restart", 1, "pulse", 0)]),
    0x34: ("constants", [("load", 1, "pulse", 0)]),
}


def map_of(unit: Any, **options: Any) -> RegisterMap:
    return register_map(unit, ShellOptions(axi_lite=True, **options))


def facts(registers: tuple[Register, ...]) -> dict[int, tuple[str, list[tuple[Any, ...]]]]:
    """Return names, widths, access and reset values by address."""
    return {one.address: (one.name, [tuple(field[:4]) for field in one.fields]) for one in registers}


def test_version_1() -> None:
    registers = map_of(ConSmax().unit(lanes=4, max_row=100), **ALL).registers
    assert facts(registers) == VERSION_1
    signed = [field.name for one in registers for field in one.fields if field.signed]
    assert signed == ["offset"]


@pytest.mark.parametrize("options", [{}, {"status": True}, {"row_length": True}], ids=str)
def test_options_move_no_register(options: dict[str, Any]) -> None:
    left_out = set(range(0x20, 0x34)) if "row_length" not in options else set()
    left_out |= set(range(0x0C, 0x1C)) if "status" not in options else set()
    registers = facts(map_of(ConSmax().unit(lanes=4, max_row=100), **options).registers)
    assert registers == {at: one for at, one in VERSION_1.items() if at not in left_out}


def test_the_widest_beat_fits_its_field() -> None:
    (version, lanes) = map_of(Exact().unit(lanes=256, max_row=256)).registers[0].fields
    assert (version.reset, lanes.reset) == (1, 256)
    assert lanes.reset < 1 << lanes.bits


def test_descriptions_name_what_a_field_does() -> None:
    by_name = {register.name: register for register in map_of(ConSmax().unit(lanes=2), **ALL, tags=2).registers}
    assert {field.about for field in by_name["interrupt_enable"].fields} == {"1: this error raises the interrupt"}
    assert by_name["state"].fields[1].about.startswith("the next row waits until its constants have been loaded")
    plain = map_of(ConSmax().unit(lanes=2))
    assert plain.registers[2].fields[1].about == "some of the written constants are not in use yet"
    assert [table.about for table in plain.tables][-1] == "largest result"


@pytest.mark.parametrize(
    ("sets", "options", "count", "readable"),
    [(1, {}, 1, False), (3, {}, 3, False), (3, {"tags": 5}, 3, False), (1, {"tags": 5}, 5, True)],
    ids=str,
)
def test_sets_of_constants(sets: int, options: dict[str, Any], count: int, readable: bool) -> None:
    unit_map = map_of(ConSmax().unit(lanes=2, sets=sets), **options)
    assert [(table.name, table.address, table.words) for table in unit_map.tables] == [
        ("high", 0x00, 16),
        ("low", 0x40, 16),
        ("offset", 0x80, 1),
        ("limit", 0x84, 1),
    ]
    assert (unit_map.base, unit_map.stride, unit_map.sets, unit_map.readable) == (0x100, 0x100, count, readable)
    assert unit_map.address_bits == (0x100 * (1 + count) - 1).bit_length()


def test_constants_begin_after_the_registers() -> None:
    """The stride is the power of two that holds a set, and at least the room of the registers."""

    def words(count: int, bits: int = 8) -> Any:
        registers = SimpleNamespace(registers=(), words=count, data_bits=bits)
        return SimpleNamespace(lanes=2, max_row=10, sets=1, registers=registers)

    for count, stride in ((1, 0x40), (15, 0x40), (16, 0x40), (17, 0x80), (32, 0x80), (33, 0x100)):
        unit_map = map_of(words(count))
        assert (unit_map.base, unit_map.stride) == (stride, stride)
    assert map_of(words(4, 32)).base == 0x40
    with pytest.raises(ValueError, match="up to 33 bits, a register of AXI4-Lite 32"):
        map_of(words(4, 33))
    without = map_of(Exact().unit(lanes=2))
    assert (without.base, without.stride, without.sets, without.tables, without.address_bits) == (0x40, 0, 0, (), 6)
    assert without.registers[-1].fields == (
        Field("busy", 1, "read", 0, "a row has entered and its last result has not left"),
    )
