"""Libraries from Liberty files: defaults, cells that are left out and listed, and incomplete cells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.cells.liberty import LibertyError, parse
from softmaxkit.flow.cells.library import Library
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.cells.reading import NO_HOLD, NO_LEAKAGE, library_from_liberty
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.scripts import REGISTERS, mapping_scripts
from softmaxkit.flow.sources import Source
from softmaxkit.flow.synthesize import chosen_library

INDEX = 'index_1 ("1, 2"); index_2 ("1, 2");'
HEADER = f"""delay_model : table_lookup; time_unit : "1ns"; capacitive_load_unit (1, pf); nom_voltage : 1;
  lu_table_template (grid) {{
    variable_1 : input_net_transition; variable_2 : total_output_net_capacitance; {INDEX}
  }}"""
DELAY = 'timing () { related_pin : "%s"; cell_rise (grid) { values ("1, 2", "3, 4"); } }'
PIN_A = "pin (A) { direction : input; capacitance : 0.5; }"
OUT = 'pin (Y) { direction : output; function : "!A"; %s }' % (DELAY % "A")
INVERTER = f"area : 2; {PIN_A} {OUT}"


def read(tmp_path: Path, cells: str, header: str = HEADER, name: str = "mine.lib") -> Library:
    path = tmp_path / name
    path.write_text(f"library (mine) {{ {header} {cells} }}", encoding="utf-8")
    return library_from_liberty([path])


def cell(inside: str, name: str = "INV") -> str:
    return f"cell ({name}) {{ {inside} }}"


LEFT_OUT = {
    "dont_use": "dont_use : true;",
    "quoted": 'dont_use : "TRUE";',
    "dont_touch": "dont_touch : true;",
    "is_level_shifter": "is_level_shifter : true;",
    "retention_cell": 'retention_cell : "KIND";',
    "bus or bundle pins": "bus (D) { bus_type : wide; pin (D[0]) { direction : input; } }",
    "several registers": "ff_bank (IQ, IQN, 4) { }",
    "three_state outputs": 'pin (Z) { direction : output; function : "A"; three_state : "A"; }',
    "neither input nor output": "pin (Z) { direction : inout; }",
    "not identifiers": "pin (Z[0]) { direction : input; }",
    "an output without a function": "pin (Z) { direction : output; }",
    "a statetable": 'statetable ("A", "IQ") { table : "H : - : H"; }',
    "a function of signals other": 'pin (Z) { direction : output; function : "IQ"; }',
    "a missing delay": 'pin (Z) { direction : output; function : "A"; }',
    "a pin that does not exist": f'pin (Z) {{ direction : output; function : "A"; {DELAY % "A"} {DELAY % "B"} }}',
}


@pytest.mark.parametrize("why", LEFT_OUT)
def test_cells_that_are_left_out_are_listed_with_the_reason(why: str, tmp_path: Path) -> None:
    library = read(tmp_path, cell(INVERTER) + cell(INVERTER + LEFT_OUT[why], "ODD"))
    assert list(library.cells) == ["INV"]
    (remark,) = [remark for remark, names in library.remarks.items() if names == ("ODD",)]
    assert remark.startswith("left out for ")
    assert ("dont_use" if why == "quoted" else why) in remark
    kept = read(tmp_path, cell(INVERTER) + cell(INVERTER + re.sub("true|TRUE", "false", "dont_use : true;"), "ODD"))
    assert list(kept.cells) == ["INV", "ODD"]


def test_the_warning_is_one_line(tmp_path: Path) -> None:
    odd = "".join(cell(INVERTER + "dont_use : true;", f"ODD{at}") for at in range(40))
    (tmp_path / "my.lib").write_text(f"library (mine) {{ {HEADER} {cell(INVERTER)} {odd} }}")
    with pytest.warns(UserWarning, match=r"my\.lib: .*left out for dont_use: ODD0, .* and 34 more") as warned:
        chosen_library("sky130", [tmp_path / "my.lib"])
    (text,) = [str(warning.message) for warning in warned if "my.lib" in str(warning.message)]
    assert "\n" not in text


MISSING: dict[str, tuple[Any, str]] = {
    "area": (cell(f"{PIN_A} {OUT}"), "mine.lib, line 4: cell INV: the cell has no area"),
    "related_pin": (
        cell(INVERTER.replace('related_pin : "A";', "")),
        "cell INV: a timing group of pin Y has no",
    ),
    "capacitance": (
        cell(INVERTER.replace("capacitance : 0.5;", "")),
        "mine.lib, line 4: cell INV: pin A has no capacitance, rise_capacitance or fall_capacitance, and the library",
    ),
    "template": (cell(INVERTER.replace("(grid)", "(other)")), "INV: .* template 'other', which is not defined"),
    "a number": (cell(INVERTER.replace("area : 2", "area : nan")), "area of cell INV must be a number, got 'nan'"),
    "a truth": (cell(INVERTER + "dont_use : maybe;"), "dont_use of cell INV must be true or false, got 'maybe'"),
    "a table": (cell(INVERTER.replace('"3, 4"', '"3, inf"')), "cell INV: these are not numbers"),
    "one of two": (cell(INVERTER) + cell(INVERTER), "cell INV occurs twice; give other corners .* --corner"),
    "other text": ('include_file ("cells.inc");', "uses include_file, which is not supported"),
}


@pytest.mark.parametrize("what", MISSING)
def test_incomplete_cells_are_refused_with_file_and_cell(what: str, tmp_path: Path) -> None:
    cells, expected = MISSING[what]
    with pytest.raises(LibertyError, match=expected) as caught:
        read(tmp_path, cells)
    assert "mine.lib" in str(caught.value)


HEADERS = {
    "no capacitive_load_unit": ("capacitive_load_unit (1, pf);", "", "library mine has no capacitive_load_unit"),
    "another delay model": ("table_lookup", "polynomial", "delay_model is polynomial; only table_lookup"),
    "an axis that falls": (
        'index_1 ("1, 2")',
        'index_1 ("2, 1")',
        "cell INV: .*the axes of a table grid are not ascending",
    ),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_are_refused(what: str, tmp_path: Path) -> None:
    old, new, expected = HEADERS[what]
    with pytest.raises(LibertyError, match=expected):
        read(tmp_path, cell(INVERTER), HEADER.replace(old, new))


def test_tables_over_other_axes_leave_their_cell_out(tmp_path: Path) -> None:
    library = read(tmp_path, cell(INVERTER), HEADER.replace("input_net_transition", "normalized_voltage"))
    assert library.remarks == {"left out for tables over normalized_voltage": ("INV",)}


def test_several_pins_in_one_group(tmp_path: Path) -> None:
    both = 'pin (A, "B") { direction : input; capacitance : 0.5; }'
    nand = f'area : 2; {both} pin (Y) {{ direction : output; function : "!(A B)"; {DELAY % "A, B"} }}'
    (gate,) = read(tmp_path, cell(nand)).cells.values()
    assert gate.inputs == ["A", "B"]
    assert {arc.related for arc in gate.arcs} == {"A", "B"}


def test_a_delay_and_a_power_template_of_one_name(tmp_path: Path) -> None:
    """As in a library whose power tables have the axes in the opposite order."""
    axes = f"variable_1 : total_output_net_capacitance; variable_2 : input_transition_time; {INDEX}"
    power = f"power_lut_template (grid) {{ {axes.replace('1, 2', '10, 20')} }}"
    inside = 'internal_power () { related_pin : "A"; power (grid) { values ("5, 6", "7, 8"); } }'
    text = cell(INVERTER.replace(OUT, OUT[:-1] + inside + "}"))
    for header in (f"{HEADER} {power}", f"{power} {HEADER}"):
        (inverter,) = read(tmp_path, text, header).cells.values()
        rise, energy = inverter.arcs[0].rise, inverter.energy["Y", "A"]
        assert rise.slews.tolist() == rise.loads.tolist() == [1, 2]
        assert rise.values.tolist() == [[1, 2], [3, 4]]
        assert energy.slews.tolist() == energy.loads.tolist() == [10, 20]
        assert energy.values.tolist() == [[5, 7], [6, 8]]


def test_defaults_of_the_library(tmp_path: Path) -> None:
    bare = cell(INVERTER.replace("capacitance : 0.5;", ""))
    defaults = (
        "default_input_pin_cap : 0.25; default_output_pin_cap : 0.125; default_max_capacitance : 3;"
        "default_cell_leakage_power : 7; default_leakage_power_density : 9;"
    )
    library = read(tmp_path, bare, HEADER + defaults)
    (inverter,) = library.cells.values()
    assert inverter.pins["A"].capacitance == 0.25
    assert (inverter.pins["Y"].capacitance, inverter.pins["Y"].limit) == (0.125, 3)
    assert (inverter.leakage, library.remarks) == (7, {})
    density = read(tmp_path, bare, HEADER + defaults.replace("default_cell_leakage_power : 7;", ""))
    assert density.cells["INV"].leakage == 9 * 2
    own = read(tmp_path, cell(INVERTER + "cell_leakage_power : 1;"), HEADER + defaults).cells["INV"]
    assert (own.leakage, own.pins["A"].capacitance) == (1, 0.5)
    assert read(tmp_path, cell(INVERTER)).remarks == {NO_LEAKAGE: ("INV",)}


def test_capacitances_of_edges(tmp_path: Path) -> None:
    edges = INVERTER.replace("capacitance : 0.5;", "rise_capacitance : 0.5; fall_capacitance : 0.25;")
    assert read(tmp_path, cell(edges)).cells["INV"].pins["A"].capacitance == 0.375
    one = INVERTER.replace("capacitance : 0.5;", "fall_capacitance : 0.25;")
    assert read(tmp_path, cell(one)).cells["INV"].pins["A"].capacitance == 0.25


def test_energy_of_an_output_without_a_related_pin(tmp_path: Path) -> None:
    inside = 'internal_power () { rise_power (scalar) { values ("5"); } fall_power (scalar) { values ("7"); } }'
    (inverter,) = read(tmp_path, cell(INVERTER.replace(OUT, OUT[:-1] + inside + "}"))).cells.values()
    assert inverter.energy["Y", "A"].values.tolist() == [[6]]
    assert inverter.input_energy == {}


def test_setup_over_the_slew_of_the_clock_alone(tmp_path: Path) -> None:
    template = 'lu_table_template (clocks) { variable_1 : related_pin_transition; index_1 ("1, 2"); }'
    setup = 'timing () { related_pin : "C"; timing_type : setup_rising; rise_constraint (clocks) { values ("3, 5"); } }'
    delay = DELAY.replace("timing () {", "timing () { timing_type : rising_edge;") % "C"
    pins = (
        f"pin (C) {{ direction : input; capacitance : 1; }} pin (D) {{ direction : input; capacitance : 1; {setup} }}"
        f'pin (Q) {{ direction : output; function : "IQ"; {delay} }}'
    )
    flip_flop = f'area : 1; ff (IQ, IQN) {{ clocked_on : "C"; next_state : "D"; }} {pins}'
    (read_back,) = read(tmp_path, cell(flip_flop), HEADER + template).cells.values()
    assert read_back.setups[0].rise.at(np.asarray([7.0]), np.asarray([1.5])).tolist() == [4]
    assert read_back.holds == ()
    assert read(tmp_path, cell(flip_flop), HEADER + template).remarks[NO_HOLD] == ("INV",)
    hold = setup.replace("setup_rising", "hold_rising").replace("3, 5", "-1, 2")
    held = read(tmp_path, cell(flip_flop.replace(setup, setup + hold)), HEADER + template)
    assert held.cells["INV"].holds[0].fall.values.tolist() == [[-1, 2]]
    assert (held.cells["INV"].setups[0].fall.values.tolist(), NO_HOLD in held.remarks) == ([[3, 5]], False)
    without = read(tmp_path, cell(flip_flop.replace(setup, "")), HEADER + template)
    assert list(without.remarks) == ["left out for a missing setup time"]


COMMENTED = """\ufefflibrary (small) { // a remark; with { and "
  // cell (GONE) { }
  url : "http://somewhere/*/x"; /* " */ note : "a \\"quoted\\" word // and no remark";
  time_unit : \\
    "1ns"; long (1, \\
      2);
}
"""


def test_comments_strings_and_continuations(tmp_path: Path) -> None:
    path = tmp_path / "small.lib"
    path.write_text(COMMENTED, encoding="utf-8")
    from softmaxkit.flow.cells.liberty import read_liberty

    for ending in ("\n", "\r\n"):
        path.write_bytes(COMMENTED.replace("\n", ending).encode())
        library = read_liberty(path)
        assert library.values["url"] == "http://somewhere/*/x"
        assert library.values["note"] == 'a "quoted" word // and no remark'
        assert library.values["time_unit"] == "1ns"
        assert library.values["long"].replace(",", " ").split() == ["1", "2"]
        assert library.groups == []
    with pytest.raises(LibertyError, match=r"line 8: surplus }"):
        parse(COMMENTED.lstrip("\ufeff") + "}")


def test_flip_flops_with_two_outputs_and_other_resets(tmp_path: Path) -> None:
    """As in libraries whose flip-flops all have Q and QN, or have an active-high clear."""
    sky = library_of("sky130")
    plain, cleared = (sky.cells[f"sky130_fd_sc_hd__{kind}_1"] for kind in ("dfxtp", "dfrtp"))
    assert plain.state is not None
    assert cleared.state is not None
    table = Table(np.zeros(1), np.zeros(1), np.ones((1, 1)))
    inverted = plain.pins["Q"]._replace(function=plain.state.names[1])
    arcs = tuple(arc._replace(output="QN") for arc in plain.arcs)
    from dataclasses import replace

    both = replace(plain, pins=plain.pins | {"QN": inverted}, arcs=plain.arcs + arcs, energy={("QN", "CLK"): table})
    high = replace(cleared, state=cleared.state._replace(clear="RESET_B"))
    others = {name: library_cell for name, library_cell in sky.cells.items() if library_cell.state is None}
    library = replace(sky, cells=others | {both.name: both, high.name: high})
    assert f"cell ({both.name})" in to_liberty(library)
    front = mapping_scripts(Source("top", {"design.v": ""}), library, 5.0)["front.ys"]
    assert [kind for kind in REGISTERS if f"-cell {kind} x" in front] == ["$_DFF_P_", "$_DFF_PP0_"]
    front = mapping_scripts(Source("top", {"design.v": ""}), sky, 5.0)["front.ys"]
    assert [kind for kind in REGISTERS if f"-cell {kind} x" in front] == ["$_DFF_P_", "$_DFF_PN0_", "$_DFF_PN1_"]
