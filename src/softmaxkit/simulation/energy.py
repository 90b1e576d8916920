"""Energy and area of a run, by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from softmaxkit.simulation.arrays import QUERY_KEY, VALUE
from softmaxkit.simulation.chip import Run
from softmaxkit.simulation.costs import Costs, NoRecord, Part


class Bill(NamedTuple):
    """The energy and area of a run.

    Attributes:
        energy_uj: energy by part.
        area_mm2: area of all engines, by part.
        sources: the source of each part's figures.
        missing: for each part without figures, the reason and the command that makes its record.
    """

    energy_uj: dict[str, float]
    area_mm2: dict[str, float]
    sources: dict[str, str]
    missing: dict[str, NoRecord]


def bill(costs: Costs, run: Run) -> Bill:
    """Return the energy and area of a run.

    An array costs energy in the cycles in which it works, a unit for each score, and a memory for each access and, by
    leakage, all the time; idle parts are assumed clock-gated. Masked scores in a query's last beat are not counted.

    Args:
        costs: the costs of an engine.
        run: the run of its chip.

    Raises:
        HardwareError: a part's netlist does not reach the clock.
    """
    hardware = costs.hardware
    parts, missing = {}, {}
    of_parts: dict[str, Callable[[], Part]] = {
        "QK array": lambda: costs.array(QUERY_KEY),
        "softmax unit": lambda: costs.unit,
        "PV array": lambda: costs.array(VALUE),
    }
    for name, part in of_parts.items():
        try:
            parts[name] = part()
        except NoRecord as error:
            missing[name] = error
    if parts:
        costs.check_clock(parts)
    times = {"QK array": run.array_cycles, "softmax unit": run.scores, "PV array": run.array_cycles}
    energy = {name: times[name] * part.energy_pj for name, part in parts.items()}
    area = {name: part.area_um2 for name, part in parts.items()}
    sources = {name: part.source for name, part in parts.items()}
    # 1 nW over 1 ns is 1e-6 pJ.
    leaks = 1e-6 * hardware.engines * run.cycles * 1e3 / hardware.clock_mhz
    if "softmax unit" in parts:
        rows = costs.unit_memories
        energy["row memory"] = sum(
            run.scores * access_energy + leaks * made.leakage for made, access_energy in rows.values()
        )
        area["row memory"] = sum(made.area for made, _ in rows.values())
        if rows:
            sources["row memory"] = next(iter(rows.values()))[0].macro.source
    word = costs.sizes.word_bits // 8
    for name, size in (("key buffer", hardware.buffers.key_bytes), ("value buffer", hardware.buffers.value_bytes)):
        made = costs.buffer(size)
        write, read = costs.access(made)
        written = run.loaded_bytes / 2 * run.engines_per_head  # engines that share a head each have a copy
        energy[name] = run.array_cycles * read + written / word * write + leaks * made.leakage
        area[name] = made.area
        sources[name] = f"{made.pieces} x {made.macro.name}, {made.macro.source}"
    energy["DRAM"] = 8 * run.moved_bytes * hardware.dram.energy_pj_per_bit
    sources["DRAM"] = hardware.dram.source
    return Bill(
        {name: amount * 1e-6 for name, amount in energy.items() if amount},
        {name: hardware.engines * amount * 1e-6 for name, amount in area.items() if amount},
        sources,
        missing,
    )
