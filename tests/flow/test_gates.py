"""Gate-level simulation: outputs equal golden, a broken cell is detected, and the recorded states are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from netlists import PREFIX, consmax, hand_netlist, mapped, settled, softermax, whole_table

from softmaxkit.flow.activity import count_toggles, state_nets
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.gates import CHUNK, read_states, simulate_netlist, simulation_model
from softmaxkit.flow.netlist import Group, Netlist
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.simulate import Outcome, can_verilate
from softmaxkit.flow.timing import analyse
from softmaxkit.flow.vectors import Stream, stream
from softmaxkit.methods.base.unit import SoftmaxUnit

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
CYCLES = 200


def stream_of(unit: SoftmaxUnit, seed: int, results: int = 400) -> Stream:
    constants = unit.constants if unit.constants is not None else unit.spec.examples()[0]
    return stream(unit, [(constants, random_rows(unit, constants, results, np.random.default_rng(seed)))])


def run(unit: SoftmaxUnit, netlist: Netlist) -> tuple[list[str], list[Outcome], Any]:
    """Return the faults of a netlist in both runs, the outcomes, and the states."""
    streams = stream_of(unit, 0), stream_of(unit, 1)
    outcomes, states = simulate_netlist(unit, netlist, *streams, CYCLES)
    assert states.shape == (CYCLES, len(state_nets(netlist)))
    pairs = zip(outcomes, streams, strict=True)
    return [fault for outcome, given in pairs for fault in outcome.faults(given)], outcomes, states


def check_registers(netlist: Netlist, states: Any) -> int:
    """Check that plain flip-flops store their input, or keep their state if gated; return how many there are."""
    values, seen = settled(netlist, states), 0
    (clock,) = netlist.inputs[netlist.clock]
    runs = {clock: np.ones(len(states), np.bool_)}
    for group in netlist.groups:
        if group.cell.name.startswith(f"{PREFIX}dlclkp"):
            runs |= {int(out): values[on] for out, on in zip(group.nets["GCLK"], group.nets["GATE"], strict=True)}
    for group in netlist.groups:
        if group.cell.name.startswith(f"{PREFIX}dfxtp"):
            for clock, data, out in zip(*(group.nets[pin] for pin in ("CLK", "D", "Q")), strict=True):
                follows = np.where(runs[int(clock)], values[data], values[out])
                assert (values[out, 1:] == follows[:-1]).all()
                seen += 1
    return seen


@verilator
def test_a_netlist_equals_golden() -> None:
    unit = whole_table()
    netlist = mapped(unit).netlist
    faults, outcomes, states = run(unit, netlist)
    assert faults == []
    assert [(outcome.mismatches, outcome.wrong_results) for outcome in outcomes] == [(0, 0)] * 2
    assert outcomes[1].cycles > outcomes[0].cycles + 100  # gaps and stalls
    assert check_registers(netlist, states) > 8
    assert 0.1 < states[20:].mean() < 0.9
    activity = count_toggles(netlist, analyse(netlist), states, 20)
    assert activity.toggles.sum() > 1000
    # A state that is recorded in the wrong cycle is detected.
    shifted = states.copy()
    shifted[:, -1] = np.roll(states[:, -1] ^ (np.arange(CYCLES) % 2 == 0), 1)
    with pytest.raises(AssertionError):
        check_registers(netlist, shifted)


def other_function(netlist: Netlist) -> Netlist:
    """Return a netlist in which one cell computes the opposite."""

    def changed(group: Group) -> list[Group]:
        if group.cell.state is not None or len(group.cell.outputs) != 1 or done:
            return [group]
        done.append(group.cell.name)
        (out,) = group.cell.outputs
        pin = group.cell.pins[out]
        cell = replace(group.cell, pins=group.cell.pins | {out: pin._replace(function=f"!({pin.function})")})
        return [part(group, slice(0, 1))._replace(cell=cell), part(group, slice(1, None))]

    done: list[str] = []
    return replace(netlist, groups=tuple(part for group in netlist.groups for part in changed(group)))


def part(group: Group, which: slice) -> Group:
    return Group(group.cell, group.instances[which], {pin: nets[which] for pin, nets in group.nets.items()})


def swapped_registers(netlist: Netlist) -> Netlist:
    """Return a netlist in which the outputs of two registers are swapped."""

    def swapped(group: Group) -> Group:
        if group.cell.state is None or "Q" not in group.nets or len(group.instances) < 2:
            return group
        nets = group.nets["Q"].copy()
        nets[[0, -1]] = nets[[-1, 0]]
        return group._replace(nets=group.nets | {"Q": nets})

    return replace(netlist, groups=tuple(map(swapped, netlist.groups)))


@verilator
@pytest.mark.parametrize("broken", [other_function, pytest.param(swapped_registers, marks=pytest.mark.slow)])
def test_a_broken_netlist_is_detected(broken: Callable[[Netlist], Netlist]) -> None:
    unit = whole_table()
    faults, outcomes, _ = run(unit, broken(mapped(unit).netlist))
    assert faults
    assert any(outcome.wrong_results or outcome.compared == 0 for outcome in outcomes)


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["memory", "latches"])
def test_memories_and_latches(storage: str) -> None:
    unit = softermax(storage)
    netlist = mapped(unit).netlist
    kinds = {group.cell.state.kind for group in netlist.groups if group.cell.state is not None}
    assert ("latch" in kinds) == (storage == "latches")
    assert any(name.startswith(unit.memories) for name in netlist.outputs) == (storage == "memory")
    faults, _, states = run(unit, netlist)
    assert faults == []
    check_registers(netlist, states)
    activity = count_toggles(netlist, analyse(netlist), states, 50)
    assert activity.toggles.sum() > activity.settled.sum()


@pytest.mark.slow
@verilator
def test_asap7() -> None:
    # Its flip-flops store the inverse of their input.
    unit = whole_table()
    netlist = mapped(unit, library_of("asap7")).netlist
    faults, _, states = run(unit, netlist)
    assert faults == []
    assert count_toggles(netlist, analyse(netlist), states, 50).cycles == CYCLES - 50


@verilator
@pytest.mark.slow
def test_a_float_multiplier() -> None:
    netlist = mapped(consmax()).netlist
    faults, _, states = run(consmax(), netlist)
    assert faults == []
    assert check_registers(netlist, states) > 20


def test_models_of_all_kinds_of_cells() -> None:
    cells = [
        "a dfrtp_1 CLK=clk D=d RESET_B=r Q=q",
        "b dfstp_1 CLK=clk D=d SET_B=r Q=s",
        "c dlxtn_1 GATE_N=clk D=q Q=t",
        "g dlclkp_1 CLK=clk GATE=d GCLK=c",
        "n nand2_1 A=q B=1 Y=x",
    ]
    circuit = hand_netlist("clk d r", "x t", cells)
    q, s, t, d, r, clk, x, c = (circuit.net[name] for name in ("q", "s", "t", "d", "r", "clk", "x", "c"))
    text = "\n".join(simulation_model(circuit.netlist, "top", 0))
    assert text.startswith("module top (")
    assert (
        f"always @(posedge n{clk} or posedge forced0) begin\nif ((~n{r})) state0 <= 1'd0; else state0 <= n{d};" in text
    )
    assert (
        f"always @(posedge n{clk} or posedge forced1) begin\nif ((~n{r})) state1 <= 1'd1; else state1 <= n{d};" in text
    )
    assert f"always_latch if ((~n{clk})) begin\nstate2 = n{q};" in text
    assert f"always_latch if (~(n{clk})) begin\nstate3 = n{d};" in text
    assert f"wire n{c} = (state3 & n{clk});" in text
    assert f"wire n{x} = ((~n{q}) | (~n1));" in text
    assert f"wire n{s} = state1;" in text
    assert f"wire n{t} = state2;" in text
    assert "$fwrite" not in text


@pytest.mark.parametrize("count", [1, 7, 8, 9, CHUNK, CHUNK + 1, 2 * CHUNK + 333])
def test_states_are_read_as_they_are_written(count: int) -> None:
    bits = np.random.default_rng(count).random((5, count)) < 0.5
    lines = []
    for row in bits:
        words = [row[at : at + CHUNK] for at in range(0, count, CHUNK)]
        values = [(int("".join("01"[int(bit)] for bit in word), 2), -(-len(word) // 4)) for word in words]
        lines.append("".join(f"{value:0{digits}x} " for value, digits in values) + "\n")
    assert (read_states("".join(lines), count) == bits).all()
