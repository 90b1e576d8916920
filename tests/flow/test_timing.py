"""Timing: small netlists against scalar arithmetic, and mapped units with thinned against full tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from netlists import (
    HandNetlist,
    cell_of,
    consmax,
    full_library,
    hand_netlist,
    looked_up,
    mapped,
    softermax,
)

from softmaxkit.flow.cells.library import Arc
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.timing import FALL, INPUT_SLEW, OUTPUT_LOAD, RISE, Timing, analyse
from softmaxkit.flow.tools import ToolError
from softmaxkit.methods.base.unit import SoftmaxUnit

yosys = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
WIRE = library_of("sky130").wire
EXACT = 1e-12
"""Relative tolerance: both sides compute the same in float64, in a different order."""

Edge = tuple[float, float]
"""Arrival and slew of an edge, in ns."""

START: Edge = (0.0, INPUT_SLEW)
CLOCK: Edge = (0.0, 0.0)


def arc_of(kind: str, related: str, sense: str = "") -> Arc:
    return next(arc for arc in cell_of(kind).arcs if arc.related == related and sense in ("", arc.sense))


def after(arc: Arc, out: int, come: Edge, load: float) -> Edge:
    """Return the output edge that an input edge causes."""
    delay, slew = ((arc.rise, arc.rise_slew), (arc.fall, arc.fall_slew))[out]
    return come[0] + looked_up(delay, come[1], load), looked_up(slew, come[1], load)


def inverted(kind: str, come: list[Edge], load: float) -> list[Edge]:
    """Return the rising and the falling edge after an inverter."""
    return [after(arc_of(kind, "A"), out, come[1 - out], load) for out in (RISE, FALL)]


def at(timing: Timing, circuit: HandNetlist, net: str) -> list[Edge]:
    place = circuit.net[net]
    return [(float(timing.arrivals[place, edge]), float(timing.slews[place, edge])) for edge in (RISE, FALL)]


def same(edges: list[Edge], expected: list[Edge]) -> None:
    for ours, theirs in zip(edges, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=EXACT, abs=1e-15)


def pin(kind: str, name: str) -> float:
    """Return the capacitance that a pin adds to its net in pF, its wire included."""
    return cell_of(kind).pins[name].capacitance + WIRE


def test_a_chain_of_inverters() -> None:
    # The first drives two pins, the last only an output.
    cells = ["a inv_1 A=in Y=x", "b inv_2 A=x Y=y", "c inv_1 A=y Y=z", "d inv_4 A=x Y=w"]
    circuit = hand_netlist("in", "z", cells)
    timing = analyse(circuit.netlist)
    x = inverted("inv_1", [START, START], pin("inv_2", "A") + pin("inv_4", "A"))
    y = inverted("inv_2", x, pin("inv_1", "A"))
    z = inverted("inv_1", y, OUTPUT_LOAD)
    for net, expected in {"in": [START, START], "x": x, "y": y, "z": z, "w": inverted("inv_4", x, 0.0)}.items():
        same(at(timing, circuit, net), expected)
    assert timing.period == pytest.approx(max(z)[0], rel=EXACT, abs=1e-15)
    assert timing.fmax_mhz == pytest.approx(1e3 / timing.period, rel=1e-12)
    last = ("rise", "fall")[z.index(max(z))]
    assert [step.instance for step in timing.path] == ["in[0]", "a", "b", "c", "out_z"]
    assert [step.cell for step in timing.path][1:] == [f"sky130_fd_sc_hd__inv_{n}" for n in (1, 2, 1)] + ["output"]
    assert timing.path[-1].edge == timing.path[-2].edge == timing.path[1].edge == last != timing.path[0].edge
    assert [step.time for step in timing.path] == sorted(step.time for step in timing.path)
    # The delay of an inverter is the mean of its two edges.
    assert timing.delays[circuit.net["x"]] == pytest.approx((x[0][0] + x[1][0]) / 2, rel=EXACT, abs=1e-15)


def test_slew_and_load_of_ports() -> None:
    circuit = hand_netlist("in", "x", ["a inv_1 A=in Y=x"])
    for slew, load in ((0.01, 0.0), (0.3, 0.05), (2.0, 0.2)):  # the last is beyond the table
        same(at(analyse(circuit.netlist, slew, load), circuit, "x"), inverted("inv_1", [(0.0, slew)] * 2, load))


def test_either_edge_of_an_exclusive_or() -> None:
    circuit = hand_netlist("p q", "x", ["slow inv_1 A=p Y=n", "xor xor2_1 A=n B=q X=x"])
    timing = analyse(circuit.netlist)
    n = inverted("inv_1", [START, START], pin("xor2_1", "A"))
    x = []
    for out in (RISE, FALL):
        ways = [
            after(arc_of("xor2_1", related, sense), out, come[out if sense == "positive_unate" else 1 - out], 0.01)
            for related, come in (("A", n), ("B", [START, START]))
            for sense in ("positive_unate", "negative_unate")
        ]
        x.append((max(time for time, _ in ways), max(slew for _, slew in ways)))
    same(at(timing, circuit, "x"), x)
    assert [step.instance for step in timing.path] == ["p[0]", "slow", "xor", "out_x"]


def test_from_register_to_register() -> None:
    cells = ["a dfxtp_1 CLK=clk D=in Q=q", "i inv_1 A=q Y=n", "b dfxtp_2 CLK=clk D=n Q=r"]
    circuit = hand_netlist("clk in", "", cells)
    timing = analyse(circuit.netlist)
    assert circuit.netlist.clock == "clk"
    arc = arc_of("dfxtp_1", "CLK")
    q = [after(arc, out, CLOCK, pin("inv_1", "A")) for out in (RISE, FALL)]
    n = inverted("inv_1", q, pin("dfxtp_2", "D"))
    same(at(timing, circuit, "n"), n)
    (setup,) = cell_of("dfxtp_2").setups
    needed = [come + looked_up((setup.rise, setup.fall)[edge], slew, 0.0) for edge, (come, slew) in enumerate(n)]
    assert timing.period == pytest.approx(max(needed), rel=EXACT, abs=1e-15)
    assert [step.instance for step in timing.path] == ["clk[0]", "a", "i", "b"]
    assert timing.path[-1].time == timing.period
    assert timing.half == -math.inf  # no path has only half a period, so none limits the slack
    assert timing.slack(10.0) == 10.0 - timing.whole


def test_a_latch_is_read_after_its_edge() -> None:
    cells = ["s inv_1 A=in Y=d", "l dlxtp_1 GATE=clk D=d Q=q", "m dlxtn_1 GATE_N=clk D=q Q=r"]
    circuit = hand_netlist("clk in", "r", cells)
    timing = analyse(circuit.netlist, input_delay=1.0)
    q = [after(arc_of("dlxtp_1", "GATE"), out, CLOCK, pin("dlxtn_1", "D")) for out in (RISE, FALL)]
    same(at(timing, circuit, "q"), q)  # not through D, however late it arrives
    r = [after(arc_of("dlxtn_1", "GATE_N"), out, CLOCK, OUTPUT_LOAD) for out in (RISE, FALL)]
    same(at(timing, circuit, "r"), r)
    for kind, gate, edge in (("dlxtp_1", "GATE", "rise"), ("dlxtn_1", "GATE_N", "fall")):
        alone = analyse(hand_netlist("clk in", "r", [f"l {kind} {gate}=clk D=in Q=r"]).netlist)
        assert [(step.instance, step.edge) for step in alone.path[:1]] == [("clk[0]", edge)]


def shortest(timing: Timing) -> list[str]:
    return [step.instance for step in timing.shortest]


def test_hold_from_register_to_register() -> None:
    cells = ["a dfxtp_1 CLK=clk D=in Q=q", "i inv_1 A=q Y=n", "b dfxtp_2 CLK=clk D=n Q=r", "c dfxtp_1 CLK=clk D=q Q=s"]
    circuit = hand_netlist("clk in", "", cells)
    timing = analyse(circuit.netlist)
    load = pin("inv_1", "A") + pin("dfxtp_1", "D")
    arc = arc_of("dfxtp_1", "CLK")
    (hold,) = cell_of("dfxtp_1").holds
    q = [after(arc, out, CLOCK, load) for out in (RISE, FALL)]
    slacks = [come - looked_up((hold.rise, hold.fall)[edge], slew, 0.0) for edge, (come, slew) in enumerate(q)]
    assert timing.hold == pytest.approx(min(slacks), rel=EXACT, abs=1e-15)
    assert shortest(timing) == ["clk[0]", "a", "c"]  # without the inverter, and not from the input
    assert timing.shortest[-1].time == timing.hold
    assert analyse(hand_netlist("clk in", "", cells[:1]).netlist).hold == float("inf")


def test_hold_uses_the_fastest_path() -> None:
    cells = ["a dfxtp_1 CLK=clk D=in Q=q", "s inv_1 A=q Y=m", "t inv_1 A=m Y=n", "x and2_1 A=q B=n X=d"]
    circuit = hand_netlist("clk in", "", [*cells, "b dfxtp_1 CLK=clk D=d Q=r"])
    timing = analyse(circuit.netlist)
    assert shortest(timing) == ["clk[0]", "a", "x", "b"]
    assert [step.instance for step in timing.path] == ["clk[0]", "a", "s", "t", "x", "b"]
    assert timing.shortest[-2].time < timing.path[-2].time


def test_the_enable_of_a_clock_gate_must_hold() -> None:
    cells = ["n inv_1 A=clk Y=low", "w dfxtp_1 CLK=clk D=in Q=sel", "g and2_1 A=low B=sel X=open"]
    circuit = hand_netlist("clk in", "word", [*cells, "l dlxtp_1 GATE=open D=in Q=word"])
    timing = analyse(circuit.netlist)
    sel = [after(arc_of("dfxtp_1", "CLK"), out, CLOCK, pin("and2_1", "B")) for out in (RISE, FALL)]
    assert timing.hold == pytest.approx(min(come for come, _ in sel), rel=EXACT)
    assert shortest(timing) == ["clk[0]", "w", "g"]


def test_a_register_without_a_hold_time_must_hold_until_the_edge() -> None:
    library = library_of("sky130")
    cell = cell_of("dfxtp_2")
    library = replace(library, cells={**library.cells, cell.name: replace(cell, holds=())})
    circuit = hand_netlist("clk in", "", ["a dfxtp_1 CLK=clk D=in Q=q", "b dfxtp_2 CLK=clk D=q Q=r"], library)
    q = [after(arc_of("dfxtp_1", "CLK"), out, CLOCK, pin("dfxtp_2", "D")) for out in (RISE, FALL)]
    assert analyse(circuit.netlist).hold == pytest.approx(min(come for come, _ in q), rel=EXACT)


def test_latches_and_clock_gates() -> None:
    """A latch is written in the low phase: data and select are due when it begins, and must hold until it ends."""
    cells = [
        "n inv_1 A=clk Y=low",
        "d dfxtp_1 CLK=clk D=in Q=data",
        "w dfxtp_1 CLK=clk D=in Q=wait",
        "v inv_1 A=wait Y=sel",
    ]
    cells += ["g and2_1 A=low B=sel X=open", "l dlxtp_1 GATE=open D=data Q=word", "r dfxtp_1 CLK=clk D=word Q=read"]
    circuit = hand_netlist("clk in", "", cells)
    timing = analyse(circuit.netlist)
    load = pin("dlxtp_1", "D")
    data = [after(arc_of("dfxtp_1", "CLK"), out, CLOCK, load) for out in (RISE, FALL)]
    wait = [after(arc_of("dfxtp_1", "CLK"), out, CLOCK, pin("inv_1", "A")) for out in (RISE, FALL)]
    select = inverted("inv_1", wait, pin("and2_1", "B"))
    assert timing.half == pytest.approx(max(come for come, _ in data + select), rel=EXACT)
    (hold,) = cell_of("dlxtp_1").holds
    held = [come - looked_up((hold.rise, hold.fall)[edge], slew, 0.0) for edge, (come, slew) in enumerate(data)]
    assert timing.hold == pytest.approx(min(*held, *(come for come, _ in select)), rel=EXACT)
    assert timing.slack(10.0) == pytest.approx(min(10 - timing.whole, 5 - timing.half), rel=EXACT)


def test_input_and_output_delays() -> None:
    circuit = hand_netlist("in", "x", ["a inv_1 A=in Y=x"])
    alone = analyse(circuit.netlist).period
    assert analyse(circuit.netlist, input_delay=1.5, output_delay=0.25).period == pytest.approx(alone + 1.75, rel=EXACT)
    registers = hand_netlist("clk in", "q", ["a dfxtp_1 CLK=clk D=in Q=q"]).netlist
    inside = analyse(registers)
    assert analyse(registers, output_delay=2.0).period == pytest.approx(
        max(float(step.time) for step in inside.path) + 2.0, rel=EXACT
    )
    assert analyse(registers, input_delay=2.0).period > inside.period


def test_an_enable_that_gates_a_clock_has_half_a_period() -> None:
    cells = ["g and2_1 A=clk B=n X=c", "i inv_1 A=en Y=n", "a dfxtp_1 CLK=c D=1 Q=q", "b dfxtp_1 CLK=clk D=1 Q=r"]
    circuit = hand_netlist("clk en", "", cells)
    timing = analyse(circuit.netlist)
    n = inverted("inv_1", [START, START], pin("and2_1", "B"))
    assert circuit.netlist.clock_nets[circuit.net["c"]]
    assert not circuit.netlist.clock_nets[circuit.net["n"]]
    same(at(timing, circuit, "c"), [CLOCK, CLOCK])  # the clock is ideal
    assert timing.period == pytest.approx(2 * max(n)[0], rel=EXACT, abs=1e-15)
    assert [step.instance for step in timing.path] == ["en[0]", "i", "g"]


def test_a_clock_gate_has_a_setup_time() -> None:
    cells = ["g dlclkp_1 CLK=clk GATE=en GCLK=c", "a dfxtp_1 CLK=c D=1 Q=q"]
    circuit = hand_netlist("clk en", "", cells)
    timing = analyse(circuit.netlist)
    (setup,) = cell_of("dlclkp_1").setups
    expected = max(looked_up(table, INPUT_SLEW, 0.0) for table in (setup.rise, setup.fall))
    assert timing.period == pytest.approx(expected, rel=EXACT, abs=1e-15)
    same(at(timing, circuit, "c"), [CLOCK, CLOCK])


def test_a_path_from_a_gated_clock_begins_with_it() -> None:
    cells = [
        "g dlclkp_1 CLK=clk GATE=en GCLK=c",
        "a dfxtp_1 CLK=c D=in Q=q",
        "i inv_1 A=q Y=n",
        "b dfxtp_1 CLK=clk D=n Q=r",
    ]
    timing = analyse(hand_netlist("clk en in", "", cells).netlist)
    assert [step.instance for step in timing.path] == ["clk, gated", "a", "i", "b"]


def test_pins_without_nets_and_constants() -> None:
    cells = ["n nand2_1 A=in Y=x", "a dfxtp_1 CLK=clk Q=q", "b dfxtp_1 CLK=clk D=x", "t inv_1 A=1 Y=z"]
    circuit = hand_netlist("clk in", "x q z", cells)
    timing = analyse(circuit.netlist)
    x = [after(arc_of("nand2_1", "A"), out, START, pin("dfxtp_1", "D") + OUTPUT_LOAD) for out in (RISE, FALL)]
    same(at(timing, circuit, "x"), x)
    assert (timing.arrivals[circuit.net["z"]] == -float("inf")).all()
    assert analyse(hand_netlist("", "z", ["t inv_1 A=1 Y=z"]).netlist).path == ()
    through = analyse(hand_netlist("in", "in", []).netlist)
    assert [step.instance for step in through.path] == ["in[0]", "out_in"]


def test_a_pin_without_a_net_is_no_other_net() -> None:
    """Not the last one either, which is a slow one, and then a clock."""
    slow = ["i inv_1 A=in Y=w", "n nor2_1 A=w Y=x", "s inv_1 A=in Y=late", *(f"l{k} inv_16 A=late" for k in range(9))]
    gated = ["i inv_1 A=in Y=w", "n nor2_1 A=w Y=x", "g or2_1 A=clk B=in X=c", "r dfxtp_1 CLK=clk"]
    w = inverted("inv_1", [START, START], pin("nor2_1", "A"))
    x = inverted("nor2_1", w, OUTPUT_LOAD)
    for cells, last in ((slow, "late"), (gated, "c")):
        circuit = hand_netlist("clk in", "x", cells)
        assert circuit.net[last] == circuit.netlist.nets - 1
        assert circuit.netlist.clock_nets[circuit.net[last]] == (last == "c")
        same(at(analyse(circuit.netlist), circuit, "x"), x)


def test_a_loop_is_refused() -> None:
    cells = ["i inv_1 A=in Y=w", "a nand2_1 A=w B=y Y=x", "b inv_1 A=x Y=y"]
    with pytest.raises(ToolError, match=r"combinational loop, through or before a, b$"):
        analyse(hand_netlist("in", "y", cells).netlist)
    through = ["a nand2_1 A=in B=q Y=x", "b dfxtp_1 CLK=clk D=x Q=q"]
    assert analyse(hand_netlist("clk in", "x", through).netlist).period > 0


def within(ours: float, theirs: float, part: float) -> bool:
    return abs(ours - theirs) <= part * theirs


SLOW = [pytest.param(*pair, marks=pytest.mark.slow) for pair in (("sky130", softermax), ("asap7", consmax))]
THINNED = [("sky130", consmax), *SLOW]


@yosys
@pytest.mark.parametrize(("process", "unit"), THINNED)
def test_thinned_tables_give_the_same_longest_path(process: str, unit: Callable[[], SoftmaxUnit]) -> None:
    thinned = mapped(unit(), library_of(process)).netlist
    assert within(analyse(thinned).period, analyse(thinned.with_library(full_library(process))).period, 0.05)


def test_several_paths_and_what_their_ends_require() -> None:
    # Both edges of x and y end at an output, and y, the later one, at two.
    circuit = hand_netlist("in", "x y", ["a inv_1 A=in Y=x", "b inv_1 A=x Y=y", "c dfxtp_1 CLK=clk D=y Q=q"])
    timing = analyse(circuit.netlist, paths=9)
    ends = [(path.steps[-1].edge, path.steps[-2].instance) for path in timing.paths]
    assert sorted(ends) == [("fall", "a"), ("fall", "b"), ("rise", "a"), ("rise", "b")]
    times = [path.steps[-1].time for path in timing.paths]
    assert times == sorted(times, reverse=True)
    assert (timing.path, timing.period) == (timing.paths[0].steps, times[0])
    assert len(timing.required) == 6
    assert timing.required.max() == timing.period
    assert len(analyse(circuit.netlist).paths) == 1
