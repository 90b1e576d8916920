"""Energy: small netlists against scalar sums, a flip-flop against a measured reference, thinned tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from netlists import (
    HandNetlist,
    cell_of,
    consmax,
    full_library,
    hand_netlist,
    looked_up,
    mapped,
)

from softmaxkit.flow.activity import Activity, count_toggles, state_nets
from softmaxkit.flow.cells.library import Library
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.power import Energy, energies
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.timing import OUTPUT_LOAD, Timing, analyse

yosys = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
EXACT = 1e-9
"""Relative tolerance: an input that never changes still has a weight of 1e-12."""

SQUARE = 1.8**2
"""Square of the sky130 supply voltage."""


def random_activity(netlist: Netlist, timing: Timing, cycles: int = 200) -> Activity:
    states = np.random.default_rng(0).random((cycles, len(state_nets(netlist)))) < 0.5
    return count_toggles(netlist, timing, states)


def pin(kind: str, name: str) -> float:
    """Return the capacitance that a pin adds to its net in pF, its wire included."""
    return cell_of(kind).pins[name].capacitance + library_of("sky130").wire


class Scalar:
    """Scalar figures of the nets of a netlist that is written by hand."""

    def __init__(self, circuit: HandNetlist, timing: Timing, activity: Activity) -> None:
        self.circuit, self.timing, self.activity = circuit, timing, activity

    def rate(self, net: str) -> float:
        return int(self.activity.toggles[self.circuit.net[net]]) / self.activity.cycles

    def slew(self, net: str) -> float:
        rise, fall = self.timing.slews[self.circuit.net[net]].tolist()
        return float(rise + fall) / 2

    def charging(self, net: str, load: float) -> float:
        """Return C V^2 / 2 for each change, in pJ per cycle."""
        return 0.5 * load * SQUARE * self.rate(net)

    def inside(self, kind: str, out: str, net: str, load: float, causes: dict[str, str]) -> float:
        """Return the internal energy of the changes of an output, from the inputs that may have caused them."""
        tables = cell_of(kind).energy
        weights = {name: self.rate(cause) for name, cause in causes.items()}
        energy = {name: looked_up(tables[out, name], self.slew(cause), load) for name, cause in causes.items()}
        return self.rate(net) * sum(weights[name] * energy[name] for name in causes) / sum(weights.values())

    def at_input(self, kind: str, name: str, net: str) -> float:
        """Return the energy of the changes of an input that no output follows."""
        return self.rate(net) * looked_up(cell_of(kind).input_energy[name], self.slew(net), 0.0)


CELLS = [
    "one/a dfxtp_1 CLK=c D=y Q=q",
    "one/b nand2_1 A=in B=q Y=x",
    "two/c inv_2 A=x Y=y",
    "two/g dlclkp_1 CLK=clk GATE=x GCLK=c",
    "two/t conb_1 HI=h",
]


def test_sums_of_a_small_netlist() -> None:
    circuit = hand_netlist("clk in", "y", CELLS)
    timing = analyse(circuit.netlist)
    activity = random_activity(circuit.netlist, timing)
    total = energies(circuit.netlist, timing, activity, lambda name: name.partition("/")[0] if name else "ports")
    one = Scalar(circuit, timing, activity)
    load = {
        "clk": pin("dlclkp_1", "CLK"),
        "c": pin("dfxtp_1", "CLK"),
        "in": pin("nand2_1", "A"),
        "q": pin("nand2_1", "B"),
        "x": pin("inv_2", "A") + pin("dlclkp_1", "GATE"),
        "y": pin("dfxtp_1", "D") + OUTPUT_LOAD,
    }
    charging = {net: one.charging(net, given) for net, given in load.items()}
    first = Energy(
        charging["q"] + charging["x"],
        one.inside("dfxtp_1", "Q", "q", load["q"], {"CLK": "c"})
        + one.inside("nand2_1", "Y", "x", load["x"], {"A": "in", "B": "q"})
        + one.at_input("nand2_1", "A", "in")
        + one.at_input("nand2_1", "B", "q")
        + one.at_input("dfxtp_1", "D", "y"),
        one.at_input("dfxtp_1", "CLK", "c"),
        cell_of("dfxtp_1").leakage + cell_of("nand2_1").leakage,
    )
    second = Energy(
        charging["y"],
        one.inside("inv_2", "Y", "y", load["y"], {"A": "x"}) + one.at_input("dlclkp_1", "GATE", "x"),
        charging["c"]
        + one.inside("dlclkp_1", "GCLK", "c", load["c"], {"CLK": "clk"})
        + one.at_input("dlclkp_1", "CLK", "clk"),
        sum(cell_of(kind).leakage for kind in ("inv_2", "dlclkp_1", "conb_1")),
    )
    assert list(total) == ["one", "ports", "two"]
    for part, expected in {"one": first, "two": second, "ports": Energy(charging["in"], 0, charging["clk"], 0)}.items():
        assert vars(total[part]) == pytest.approx(vars(expected), rel=EXACT, abs=1e-15), part
    assert one.rate("clk") == 2
    assert 0 < one.rate("c") < 2
    whole = energies(circuit.netlist, timing, activity)
    for kind in ("switching", "internal", "clock", "leakage"):
        parts = sum(getattr(energy, kind) for energy in total.values())
        assert getattr(whole[""], kind) == pytest.approx(parts, rel=EXACT)


def test_a_cycle_has_leakage_by_its_duration() -> None:
    energy = Energy(1.0, 2.0, 3.0, 5_000.0)
    assert energy.cycle(10.0) == pytest.approx(6.05, rel=1e-12)  # 5 uW for 10 ns is 0.05 pJ


def test_unconnected_pins_cost_nothing() -> None:
    circuit = hand_netlist("clk in", "x", ["n nand2_1 A=in Y=x", "f dfxtp_1 CLK=clk Q=q", "g dfxtp_1 CLK=clk D=in"])
    timing = analyse(circuit.netlist)
    activity = random_activity(circuit.netlist, timing)
    (total,) = energies(circuit.netlist, timing, activity).values()
    one = Scalar(circuit, timing, activity)
    into = pin("nand2_1", "A") + pin("dfxtp_1", "D")
    assert total.switching == pytest.approx(one.charging("in", into) + one.charging("x", OUTPUT_LOAD), rel=EXACT)
    # The unconnected B has 1e-12 of the weight of A.
    inside = one.inside("nand2_1", "Y", "x", OUTPUT_LOAD, {"A": "in"}) + one.at_input("nand2_1", "A", "in")
    inside += one.at_input("dfxtp_1", "D", "in") + one.inside("dfxtp_1", "Q", "q", 0.0, {"CLK": "clk"})
    assert total.internal == pytest.approx(inside, rel=EXACT)


def test_cells_of_one_kind_differ_by_their_nets() -> None:
    """The unconnected B of one of them is not the last net, whose changes are frequent."""
    cells = ["a nor2_1 A=in B=q Y=x", "b nor2_1 A=in Y=y", "f dfxtp_1 CLK=clk D=in Q=q"]
    cell, table = cell_of("nor2_1"), Table(np.zeros(1), np.zeros(1), np.ones((1, 1)))
    # Energies of an output that no instance uses, and of an output as if it were an input.
    more = replace(cell, energy={**cell.energy, ("Z", "A"): table}, input_energy={**cell.input_energy, "Y": table})
    library = library_of("sky130")
    library = replace(library, cells={**library.cells, cell.name: more})
    circuit = hand_netlist("clk in", "", cells, library)
    timing = analyse(circuit.netlist)
    activity = random_activity(circuit.netlist, timing)
    total = energies(circuit.netlist, timing, activity, lambda name: name)
    one = Scalar(circuit, timing, activity)
    assert circuit.net["y"] == circuit.netlist.nets - 1
    assert 0 < one.rate("y") != one.rate("x") > 0
    first = one.inside("nor2_1", "Y", "x", 0.0, {"A": "in", "B": "q"})
    first += one.at_input("nor2_1", "A", "in") + one.at_input("nor2_1", "B", "q")
    second = one.inside("nor2_1", "Y", "y", 0.0, {"A": "in"}) + one.at_input("nor2_1", "A", "in")
    assert total["a"].internal == pytest.approx(first, rel=EXACT)
    assert total["b"].internal == pytest.approx(second, rel=EXACT)
    assert total["a"].leakage == total["b"].leakage == cell.leakage


def test_a_flip_flop_at_rest() -> None:
    # 0.046 pJ per cycle for both clock edges, inside the cell and at its pin: measured once as a reference.
    library = replace(library_of("sky130"), wire=0.0)
    circuit = hand_netlist("clk", "", ["f dfxtp_1 CLK=clk D=0 Q=q"], library)
    timing = analyse(circuit.netlist)
    states = np.zeros((50, len(state_nets(circuit.netlist))), np.bool_)
    (total,) = energies(circuit.netlist, timing, count_toggles(circuit.netlist, timing, states)).values()
    assert (total.switching, total.internal) == (0, 0)
    assert total.clock == pytest.approx(0.046, rel=0.05)


@yosys
@pytest.mark.slow
@pytest.mark.parametrize(("process", "period"), [("sky130", 5.0), ("asap7", 0.5)])
def test_thinned_tables_give_the_same_power(process: str, period: float) -> None:
    packaged, whole = library_of(process), full_library(process)
    netlist = mapped(consmax(), packaged).netlist

    def power(library: Library) -> float:
        again = netlist.with_library(library)
        timing = analyse(again)
        (total,) = energies(again, timing, random_activity(again, timing)).values()
        return total.cycle(period)

    assert abs(power(packaged) - power(whole)) <= 0.1 * power(whole)
    assert abs(power(with_internal_energy(packaged, 1.5)) - power(whole)) > 0.1 * power(whole)


def with_internal_energy(library: Library, factor: float) -> Library:
    """Return a library whose cells have more internal energy."""

    def more(tables: dict[Any, Table]) -> dict[Any, Table]:
        return {key: table._replace(values=table.values * factor) for key, table in tables.items()}

    cells = {
        name: replace(cell, energy=more(cell.energy), input_energy=more(cell.input_energy))
        for name, cell in library.cells.items()
    }
    return replace(library, cells=cells)
