"""OpenSTA with a netlist that contains SRAM macros: the folder's constraints apply to its top, and the macros' own."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_opensta import CLOSE, NAME, opensta, unit_of

from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import call, find, need

pytestmark = [
    pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA (Debian: apt install opensta)"),
    pytest.mark.skipif(find("yosys") is None, reason="needs Yosys"),
]

MACRO = """library(mine) {{
  delay_model : table_lookup; time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1mA";
  capacitive_load_unit(1, pf); leakage_power_unit : "1nW"; pulling_resistance_unit : "1kohm";
  {thresholds}
  type(word) {{ base_type : array; data_type : bit; bit_width : {width}; bit_from : {high}; bit_to : 0; }}
  type(place) {{ base_type : array; data_type : bit; bit_width : 4; bit_from : 3; bit_to : 0; }}
  cell(mine) {{
    pin(clk0) {{ direction : input; clock : true; capacitance : 0.01; }}
    pin(clk1) {{ direction : input; clock : true; capacitance : 0.01; }}
    pin(csb0) {{ direction : input; capacitance : 0.01; {setup0} }}
    pin(web0) {{ direction : input; capacitance : 0.01; {setup0} }}
    pin(csb1) {{ direction : input; capacitance : 0.01; {setup1} }}
    bus(addr0) {{ bus_type : place; direction : input; capacitance : 0.01; {setup0} }}
    bus(addr1) {{ bus_type : place; direction : input; capacitance : 0.01; {setup1} }}
    bus(din0) {{ bus_type : word; direction : input; capacitance : 0.01; {setup0} }}
    bus(dout0) {{ bus_type : word; direction : output; }}
    bus(dout1) {{ bus_type : word; direction : output;
      timing() {{ related_pin : "clk1"; timing_type : falling_edge;
        cell_rise(scalar) {{ values("{access}"); }} cell_fall(scalar) {{ values("{access}"); }}
        rise_transition(scalar) {{ values("0.05"); }} fall_transition(scalar) {{ values("0.05"); }} }} }}
  }}
}}
"""
"""A macro of 16 words whose data come `access` ns after the falling edge, as in the Liberty files of OpenRAM."""

AT_RISING_EDGE = """timing() {{ related_pin : "{clock}"; timing_type : {kind}_rising;
  rise_constraint(scalar) {{ values("0.1"); }} fall_constraint(scalar) {{ values("0.1"); }} }}"""


THRESHOLDS = {
    "input_threshold": 50,
    "output_threshold": 50,
    "slew_lower_threshold": 20,
    "slew_upper_threshold": 80,
}


def macro_library(width: int, access: float) -> str:
    """Return the Liberty file of a macro with words of `width` bits."""
    setups = {
        f"setup{port}": "".join(AT_RISING_EDGE.format(clock=f"clk{port}", kind=kind) for kind in ("setup", "hold"))
        for port in (0, 1)
    }
    edges = [(f"{kind}_pct_{edge}", at) for kind, at in THRESHOLDS.items() for edge in ("rise", "fall")]
    thresholds = " ".join(f"{name} : {at};" for name, at in edges)
    return MACRO.format(width=width, high=width - 1, access=access, thresholds=thresholds, **setups)


@pytest.mark.slow
def test_a_unit_with_its_macros(tmp_path: Path) -> None:
    """The default interface is the top with the memories, and a read of a macro takes its part of half a period."""
    unit = unit_of("exact", "memory")
    constants = unit.spec.examples()[0]
    rows = random_rows(unit, constants, 20, np.random.default_rng(0))
    period = 40.0
    export(unit, NAME, tmp_path, [(constants, rows)], Constraints(period), sram="mine:64x16")
    (tmp_path / "cells.lib").write_text(to_liberty(replace(library_of("sky130"), wire=0.0), analysis=True))
    files = " ".join(f"{NAME}{end}.sv" for end in ("", "_axis", "_memory", "_top"))
    (tmp_path / "map.ys").write_text(
        f"read_verilog -sv {files}\nread_verilog -sv -lib mine.sv\nsynth -flatten -top {NAME}_top\n"
        "dfflibmap -liberty cells.lib\nabc -liberty cells.lib\nopt_clean -purge\nsplitnets\n"
        "setundef -zero\nwrite_verilog -noattr -simple-lhs netlist.v\n"
    )
    call([need("yosys"), "-q", "-s", "map.ys"], tmp_path, "mapping the top")
    slacks = {}
    for access in (1.0, 4.0):
        (tmp_path / "mine.lib").write_text(macro_library(64, access))
        after = 'puts "More:"\nreport_checks -from [get_cells *macro] -digits 6\n'
        theirs = opensta(tmp_path, period, after=after, LIBERTY="cells.lib mine.lib", TOP=f"{NAME}_top")
        match = re.search(r"\(fall edge\).*?(-?[\d.]+)\s+slack", theirs.printed.partition("More:")[2], re.DOTALL)
        assert match is not None, theirs.printed
        slacks[access] = float(match[1])
    assert slacks[1.0] - slacks[4.0] == pytest.approx(3.0, abs=CLOSE * period)
    assert slacks[1.0] < period / 2 - 1.0
