"""Liberty as a language: parsing, errors in damaged files, and the functions of cells."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.cells.functions import Expression, expression
from softmaxkit.flow.cells.liberty import LibertyError, numbers, parse, read_liberty
from softmaxkit.flow.cells.macros import macros_from_liberty
from softmaxkit.flow.cells.reading import library_from_liberty

TEXT = """/* a comment
   of two lines */
library ("small") {
  time_unit : "1ps";
  nom_voltage : 1.5;  capacitive_load_unit (1, ff);
  define (mark, pin, string);
  lu_table_template (grid) {
    variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance;
    index_1 ("10, 20"); index_2 ("1, 2, 4");
  }
  cell (INV) {
    area : 2.5
    note : "a {brace}; and /no comment";
    pin (A) { direction : input; capacitance : 3; }
    pin (Y) {
      direction : output; function : "!A";
      timing () {
        related_pin : "A"; timing_sense : negative_unate;
        cell_rise (grid) { values ("1, 2, 4", \\
                                   "2, 3, 5"); }
        cell_fall (grid) { values ("2, 3, 5", "3, 4, 6"); }
      }
    }
  }
}
"""


def library_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "small.lib"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_groups_values_and_comments() -> None:
    library = parse(TEXT)
    assert (library.kind, library.names) == ("library", ("small",))
    assert library.values["time_unit"] == "1ps"
    assert library.number("nom_voltage") == 1.5
    assert library.number("absent", 7.0) == 7.0
    assert library.values["capacitive_load_unit"] == "1, ff"
    (cell,) = library.of("cell")
    assert [pin.name for pin in cell.of("pin")] == ["A", "Y"]
    assert cell.values == {"area": "2.5", "note": "a {brace}; and /no comment"}
    timing = next(pin for pin in cell.of("pin") if pin.name == "Y").first("timing")
    assert timing is not None
    assert timing.name == ""
    rise = timing.first("cell_rise")
    assert rise is not None
    assert numbers(rise.values["values"]).tolist() == [1, 2, 4, 2, 3, 5]
    assert cell.first("ff") is None
    assert parse("library (a) { cell (b) {} cell (c, d) { ; } }").groups[1].names == ("c", "d")


def test_units_and_tables(tmp_path: Path) -> None:
    library = library_from_liberty([library_of(tmp_path, TEXT)], wire=0.5)
    assert (library.name, library.voltage, library.wire) == ("small", 1.5, 0.5)
    (cell,) = library.cells.values()
    assert cell.pins["A"].capacitance == pytest.approx(0.003, rel=1e-12)  # 3 fF
    (arc,) = cell.arcs
    assert arc.rise.slews == pytest.approx([0.01, 0.02], rel=1e-12)
    assert arc.rise.loads == pytest.approx([0.001, 0.002, 0.004], rel=1e-12)
    assert arc.fall.values == pytest.approx(np.asarray([[2, 3, 5], [3, 4, 6]]) / 1e3, rel=1e-12)
    # Between the points and beyond them: 1 ps per fF above 2 fF, and 1 ps per 10 ps of slew.
    assert arc.rise.at(np.asarray([0.015, 0.04]), np.asarray([0.003, 0.008])) == pytest.approx([3.5e-3, 11e-3])


@pytest.mark.parametrize("change", ["gzip", "windows"])
def test_other_forms_of_a_file(change: str, tmp_path: Path) -> None:
    path = library_of(tmp_path, TEXT.replace("\n", "\r\n") if change == "windows" else TEXT)
    if change == "gzip":
        path.write_bytes(gzip.compress(TEXT.encode()))
    assert read_liberty(path) == parse(TEXT)


DAMAGED = {
    "an unclosed group": (TEXT.rstrip()[:-1], "library small is not closed", "library ("),
    "an unclosed group inside": (TEXT[: TEXT.index("        cell_fall")], "timing .* is not closed", "timing ()"),
    "a surplus bracket": (TEXT + "}\n", "surplus }", None),
    "garbage": (TEXT.replace("    area", "    ?? area"), r"not Liberty: '\?\? area", "    area"),
    "a bracket that stays open": (TEXT.replace("pin (A)", "pin (A"), "not Liberty: 'pin", "pin (A)"),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_reported_with_file_and_line(what: str, ending: str, tmp_path: Path) -> None:
    text, message, at = DAMAGED[what]
    path = library_of(tmp_path, text.replace("\n", ending))
    line = line_of(TEXT, at) if at else TEXT.count("\n") + 1
    with pytest.raises(LibertyError, match=rf"small\.lib, line {line}: .*{message}"):
        read_liberty(path)


WRONG = {
    "text in a number": (
        ("capacitance : 3", "capacitance : three"),
        "capacitance of pin A must be a number, got 'three'",
    ),
    "text in a table": (('"2, 3, 5"); }', '"2, x, 5"); }'), "these are not numbers"),
    "a table of another size": (('"3, 4, 6"', '"3, 4"'), "a table grid has 5 values"),
    "an unknown unit": (('"1ps"', '"1 fortnight"'), "'1 fortnight' is not a unit"),
    "an unknown unit of loads": (("(1, ff)", "(1, foot)"), "foot"),
    "a load unit without a number": (("(1, ff)", "(ff)"), "ff"),
    "an unreadable function": (('"!A"', '"!"'), "'!' is not a function of pins"),
    "an unknown sense": (("negative_unate", "sideways"), "sideways"),
    "no voltage": (("nom_voltage : 1.5;", ""), "nom_voltage"),
    "no library": (("library (", "libary ("), "no group 'library'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_name_the_file(what: str, tmp_path: Path) -> None:
    (old, new), message = WRONG[what]
    assert old in TEXT
    with pytest.raises(LibertyError, match=message) as caught:
        library_from_liberty([library_of(tmp_path, TEXT.replace(old, new, 1))])
    assert "small.lib" in str(caught.value)


REGISTER = """  cell (DFF) {
    area : 4; cell_leakage_power : 1;
    ff (IQ, IQN) { clocked_on : "CK"; next_state : "D & !R"; clear : "!S"; }
    leakage_power () { value : 2; when : "D"; }
    pin (CK) { direction : input; capacitance : 1; internal_power () { power (scalar) { values ("1.0"); } } }
    pin (D, R, S) {
      direction : input; rise_capacitance : 1.5; fall_capacitance : 2.5;
      timing () { related_pin : "CK"; timing_type : setup_rising; rise_constraint (scalar) { values ("1.0"); } }
      timing () { related_pin : "CK"; timing_type : hold_rising; rise_constraint (scalar) { values ("1.0"); } }
    }
    pin (Q) {
      direction : output; function : "IQ"; max_capacitance : 10.0;
      timing () { related_pin : "CK"; timing_type : rising_edge; cell_rise (grid) { values ("1, 2, 4", "2, 3, 5"); } }
    }
  }
"""
RAM = """library (ram) {
  capacitive_load_unit (1, pf);
  cell (ram) {
    area : 100.0; memory () { address_width : 8; word_width : 32; }
    bus (din0) { memory_write () { address : addr0; clocked_on : clk; } }
    bus (dout0) { memory_read () { address : addr0; } }
    pin (clk) {
      clock : true;
      timing () { timing_type : minimum_period; rise_constraint (scalar) { values ("2.0"); } }
      internal_power () { when : "!csb0 & !web0"; rise_power (scalar) { values ("1.0"); } }
      internal_power () { when : "!csb0 & web0"; fall_power (scalar) { values ("1.0"); } }
    }
  }
}
"""
DAMAGE = [
    "",
    " ",
    "\n",
    "\\",
    '"',
    "(",
    ")",
    "{",
    "}",
    ";",
    ":",
    ",",
    "/*",
    "!",
    "'",
    "-",
    "9",
    "e9",
    "nan",
    "\0",
    "\x1c",
]


@pytest.mark.parametrize("kind", ["cells", "memory"])
def test_whatever_is_wrong_is_refused_with_the_file(kind: str, tmp_path: Path) -> None:
    """Files cut short, and files in which something else stands in place of a few characters."""
    sound = RAM if kind == "memory" else TEXT.rstrip()[:-1] + REGISTER + "}\n"
    path, random, messages = tmp_path / "small.lib", np.random.default_rng(0), []
    read: Callable[[list[Path]], Any] = macros_from_liberty if kind == "memory" else library_from_liberty
    path.write_text(sound, encoding="utf-8")
    assert read([path])
    for trial in range(1000):
        at, length = int(random.integers(len(sound))), int(random.choice([0, 1, 1, 2, 8, 40]))
        rest = "" if trial % 4 == 0 else str(random.choice(DAMAGE)) + sound[at + length :]
        path.write_text(sound[:at] + rest, encoding="utf-8", newline="")
        try:
            read([path])
        except LibertyError as error:
            messages.append(str(error))
    assert len(messages) > 300
    located = re.compile(r"small\.lib(, line \d+:| has no| does not| uses|: no cell)")
    assert [message for message in messages if not located.search(message)] == []


@pytest.mark.parametrize("damage", ["cut", "head", "bits"])
def test_damaged_gzip(damage: str, tmp_path: Path) -> None:
    path, packed = tmp_path / "small.lib.gz", bytearray(gzip.compress(TEXT.encode()))
    if damage == "bits":
        packed[20:30] = b"\xff" * 10
    path.write_bytes(packed[: {"cut": len(packed) // 2, "head": 5}.get(damage)])
    with pytest.raises(LibertyError, match=r"small\.lib\.gz is a damaged gzip file"):
        read_liberty(path)


def test_files_of_different_voltages(tmp_path: Path) -> None:
    other = tmp_path / "other.lib"
    other.write_text(TEXT.replace("1.5", "1.8"), encoding="utf-8")
    with pytest.raises(LibertyError, match=r"different voltages: 1\.5 V, 1\.8 V"):
        library_from_liberty([library_of(tmp_path, TEXT), other])


FUNCTIONS = {
    "A": "a",
    "!A": "not a",
    "A'": "not a",
    "!A'": "a",
    "A''": "a",
    "(A B)'": "not (a and b)",
    "A B": "a and b",
    "A*B&C": "a and b and c",
    "A + B | C": "a or b or c",
    "A ^ B ^ C": "(a + b + c) % 2",
    "A B + C D": "(a and b) or (c and d)",
    "A + B C": "a or (b and c)",
    "A' B' + !C D'": "(not a and not b) or (not c and not d)",
    "!(A + B) ^ (C * D)": "(not (a or b)) != (c and d)",
    # XOR binds tighter than AND, and AND tighter than OR, in Liberty and in Yosys.
    "A & B ^ C": "a and (b != c)",
    "A ^ B C": "(a != b) and c",
    "A ^ B + C ^ D": "(a != b) or (c != d)",
    "1": "1",
    "0": "0",
    "A & 1": "a",
    "A ^ 1": "not a",
    "(0 + A)'": "not a",
    "((A))(B)": "a and b",
}


@pytest.mark.parametrize("text", FUNCTIONS)
def test_functions(text: str) -> None:
    inputs, meant = "ABCD", FUNCTIONS[text]
    truth = Expression(text).truth(list(inputs))
    rows = [dict(zip("dcba", row, strict=True)) for row in product((0, 1), repeat=4)]  # the first is the lowest bit
    assert truth == tuple(int(eval(meant, None, row)) for row in rows)
    assert set(Expression(text).names) <= set(inputs)


def test_many_bits_at_once() -> None:
    ones, random = ~np.uint64(0), np.random.default_rng(0)
    a, b = random.integers(0, 1 << 64, (2, 5), np.uint64)
    values = expression("!(A1 if) + 0")(ones, {"A1": a, "if": b})  # a pin may be named like a Python keyword
    assert (values == ~(a & b)).all()
    assert expression("!(A1 if) + 0") is expression("!(A1 if) + 0")


@pytest.mark.parametrize("text", ["", "!", "A +", "(A", "A)", "A ? B", "+ A", "A & & B", "2", "()", "A[0]"])
def test_functions_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a function of pins"):
        Expression(text)


@pytest.mark.parametrize(
    "text",
    ["(" * 5000 + "A" + ")" * 5000, "!" * 5000 + "A", "A" + "'" * 5000],
    ids=["brackets", "before", "behind"],
)
def test_functions_nested_too_deeply(text: str) -> None:
    with pytest.raises(ValueError, match=r"\.\.\. is not a function of pins; it is nested too deeply"):
        Expression(text)


def test_a_function_of_very_many_pins() -> None:
    pins = {f"A{index}": 1 for index in range(5000)}
    try:
        function = Expression(" ".join(pins))
    except ValueError:
        pytest.skip("it is nested too deeply for the parser of this version of Python")
    assert (function(1, pins), function(1, pins | {"A4999": 0})) == (1, 0)
