"""Sizing: replaced cells shorten the critical path, and change nothing but drive strengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from netlists import PREFIX, consmax, hand_netlist, mapped

from softmaxkit.flow import sizing
from softmaxkit.flow.cells.library import Cell, Pin
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.mapping import map_design
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.sizing import replacements, resized
from softmaxkit.flow.sources import Source
from softmaxkit.flow.synthesize import fit
from softmaxkit.flow.timing import Timing, analyse
from softmaxkit.flow.verilog import to_rtlil

yosys = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
HEAVY = [f"load{i} inv_8 A=y Y=l{i}" for i in range(8)]
"""A load that takes a weak gate several ns."""


NEGATORS = ["a inv_1 A=in Y=y", *HEAVY, "b inv_1 A=l0 Y=z"]
"""An inverter that drives it, and one after it."""


def exchanged(netlist: Netlist, cells: dict[str, str]) -> Netlist:
    """Return the netlist with other library cells, by the name of the instance."""
    return netlist.with_cells({netlist.names.index(name): netlist.library.cells[kind] for name, kind in cells.items()})


def test_a_weak_gate_before_a_heavy_load_is_replaced() -> None:
    netlist = hand_netlist("in other", "z", ["weak nand2_1 A=in B=other Y=y", *HEAVY, "last inv_1 A=l0 Y=z"]).netlist
    before = analyse(netlist).period
    cells = replacements(netlist, 0.6 * before)
    assert cells["weak"] in {f"{PREFIX}nand2_{drive}" for drive in (2, 4, 8)}
    assert analyse(exchanged(netlist, cells)).period <= 0.6 * before


def test_a_weak_register_is_replaced() -> None:
    cells = ["first dfxtp_1 CLK=clk D=in Q=y", *HEAVY, "last dfxtp_1 CLK=clk D=l0 Q=z"]
    netlist = hand_netlist("clk in", "z", cells).netlist
    assert replacements(netlist, 0.8 * analyse(netlist).period)["first"] in {f"{PREFIX}dfxtp_2", f"{PREFIX}dfxtp_4"}


def test_only_what_misses_the_clock_is_replaced() -> None:
    fast = ["c inv_1 A=other Y=u", "d inv_1 A=u Y=v"]
    netlist = hand_netlist("in other", "z v", NEGATORS + fast).netlist
    period = analyse(netlist).period
    assert replacements(netlist, period) == {}
    assert replacements(netlist, 0.7 * period).keys() == {"a"}


def test_outputs_that_are_not_connected() -> None:
    library = library_of("sky130")
    inverse = Pin(output=True, capacitance=0.0, function="IQ_N")
    registers = [library.cells[f"{PREFIX}dfxtp_{drive}"] for drive in (1, 2, 4)]
    two_outputs = {cell.name: replace(cell, pins={"Q_N": inverse, **cell.pins}) for cell in registers}
    # The net of Q is the last one, which the number -1 of the open output would also mean.
    cells = ["first dfxtp_1 CLK=clk D=in Q=y", *(f"load{i} dfxtp_1 CLK=clk D=y" for i in range(24))]
    netlist = hand_netlist("clk in", "", cells, replace(library, cells=library.cells | two_outputs)).netlist
    replaced = replacements(netlist, 0.8 * analyse(netlist).period)
    assert replaced["first"] in {f"{PREFIX}dfxtp_2", f"{PREFIX}dfxtp_4"}


def test_latches_are_due_after_half_a_period() -> None:
    cells = ["a nand2_1 A=in B=other Y=y", *HEAVY, "b inv_1 A=l0 Y=z", "last dlxtp_1 GATE=clk D=z Q=q"]
    netlist = hand_netlist("clk in other", "q", cells).netlist
    period = analyse(netlist).period
    (name,) = replacements(netlist, 0.98 * period).values()
    larger = exchanged(netlist, {"a": name})
    # The gain counts twice, so one gate is enough for more than its own gain.
    assert replacements(netlist, period - 0.6 * (period - analyse(larger).period)) == {"a": name}


def test_lanes_are_shortened_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Identical paths, more than are shortened at once: none of them alone shortens the period.
    monkeypatch.setattr(sizing, "PATHS", 2)
    cells = []
    for lane in range(5):
        loads = [
            text.replace("load", f"load{lane}_").replace("=y", f"=y{lane}").replace("=l", f"=l{lane}_")
            for text in HEAVY
        ]
        cells += [f"a{lane} inv_1 A=in{lane} Y=y{lane}", *loads, f"b{lane} inv_1 A=l{lane}_0 Y=z{lane}"]
    ports = (" ".join(f"{name}{lane}" for lane in range(5)) for name in ("in", "z"))
    netlist = hand_netlist(*ports, cells).netlist
    assert replacements(netlist, 0.7 * analyse(netlist).period).keys() >= {f"a{lane}" for lane in range(5)}


def test_a_clock_out_of_reach_ends_with_the_shortest_path() -> None:
    netlist = hand_netlist("in", "z", NEGATORS).netlist
    best = analyse(exchanged(netlist, replacements(netlist, 0.001)))
    assert 0.001 < best.period < analyse(netlist).period


def test_loads_beyond_the_limit_of_a_cell() -> None:
    library = library_of("sky130")
    limited = {
        cell.name: replace(cell, pins={name: pin._replace(limit=1e-4) for name, pin in cell.pins.items()})
        for cell in library.computing(lambda pin: 1 - pin, 1)
    }
    netlist = hand_netlist("in", "z", NEGATORS, replace(library, cells=library.cells | limited)).netlist
    assert replacements(hand_netlist("in", "z", NEGATORS).netlist, 0.001)
    assert replacements(netlist, 0.001) == {}


def test_a_driver_is_not_loaded_beyond_its_limit() -> None:
    library = library_of("sky130")
    cells = ["a nand2_1 A=in B=other Y=x", "b inv_1 A=x Y=y", *HEAVY, "c inv_1 A=l0 Y=z"]
    free = hand_netlist("in other", "z", cells)
    limit = float(free.netlist.loads[free.net["x"]])
    limited = {
        cell.name: replace(cell, pins=cell.pins | {"Y": cell.pins["Y"]._replace(limit=limit)})
        for cell in library.computing(lambda a, b: 1 - a * b, 2)
    }
    netlist = hand_netlist("in other", "z", cells, replace(library, cells=library.cells | limited)).netlist
    clock = 0.7 * analyse(netlist).period
    assert "b" in replacements(free.netlist, clock)
    assert "b" not in replacements(netlist, clock)


def test_no_hold_slack_turns_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    netlist = hand_netlist("in", "z", NEGATORS).netlist
    clock = 0.8 * analyse(netlist).period
    assert replacements(netlist, clock)

    def late(trial: Netlist, paths: int) -> Timing:
        return replace(analyse(trial, paths=paths), hold=0.0 if trial is netlist else -0.1)

    monkeypatch.setattr(sizing, "analyse", late)
    assert replacements(netlist, clock) == {}


@yosys
def test_a_mapped_unit_keeps_its_functions_and_connections() -> None:
    design = mapped(consmax())
    clock = 0.97 * analyse(design.netlist).period
    after = resized(design, clock)
    assert analyse(after.netlist).period <= clock
    assert (after.recipe, after.top) == ("small, resized", design.top)
    (old, new) = (mapping.design["modules"]["unit"] for mapping in (design, after))
    assert new["ports"] == old["ports"]
    changed = 0
    library = design.netlist.library.cells
    for name, cell in old["cells"].items():
        replaced = new["cells"][name]
        assert replaced["connections"] == cell["connections"]
        if cell["type"] in library:
            assert functions(library[replaced["type"]]) == functions(library[cell["type"]])
            changed += replaced["type"] != cell["type"]
    assert 0 < changed < 0.1 * len(old["cells"])


def functions(cell: Cell) -> object:
    return {name: (pin.output, pin.function) for name, pin in cell.pins.items()}, cell.state


@yosys
def test_cells_exchanged_in_a_netlist_are_as_if_read_with_it() -> None:
    design = mapped(consmax())
    after = resized(design, 0.97 * analyse(design.netlist).period)
    types = {name: cell["type"] for name, cell in after.design["modules"]["unit"]["cells"].items()}
    cells = {name: types[name] for name in design.netlist.names}
    assert set(cells.values()) == set(after.netlist.counts())
    ours, theirs = analyse(exchanged(design.netlist, cells)), analyse(after.netlist)
    assert (ours.path, ours.hold) == (theirs.path, theirs.hold)


@yosys
def test_the_smallest_netlist_may_be_a_resized_one() -> None:
    source = Source("unit", {"design.il": to_rtlil(consmax(), "unit")})
    small, fastest = designs = map_design(source, library_of("sky130"), 5.0, ["small", "fastest"])
    area, period = sum(small.netlist.areas().values()), analyse(small.netlist).period
    assert fit(designs, period, "sky130").mapped is small
    missed = fit(designs, 0.97 * period, "sky130")
    assert (missed.met, missed.mapped.recipe) == (True, "small, resized")
    assert area < sum(missed.area.values()) < sum(fastest.netlist.areas().values())
    assert missed.timing.period <= 0.97 * period
    far = fit(designs, 0.1 * period, "sky130")
    assert (far.met, far.mapped.recipe) == (False, "fastest, resized")
    assert far.timing.fmax_mhz == far.fastest > 1e3 / analyse(fastest.netlist).period
