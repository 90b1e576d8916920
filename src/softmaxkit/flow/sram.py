"""SRAM for buffered rows: macros with published figures, and the area and energy of memories built from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from softmaxkit.flow.cells.macros import Macro

if TYPE_CHECKING:
    from softmaxkit.flow.activity import Activity
    from softmaxkit.flow.netlist import Netlist
    from softmaxkit.methods.base.unit import SoftmaxUnit


def _openram(
    name: str,
    width: int,
    depth: int,
    size: tuple[float, float],
    period: float,
    write: tuple[float, float],
    read: tuple[float, float],
    idle: tuple[float, float],
    leakage: float,
    commit: str,
) -> Macro:
    """Return an OpenRAM macro, whose files give the mean power of a cycle that accesses a 1 and of one for a 0.

    Args:
        name: name of the macro.
        width: bits per word.
        depth: number of words.
        size: width and height in um, from its LEF file; the area in its Liberty file is not that of the layout.
        period: clock period in ns with which it was simulated.
        write: the two mean powers of a cycle with a write, in mW.
        read: the same for a read.
        idle: the same for a cycle without an access.
        leakage: leakage power in mW.
        commit: commit of the Liberty file.
    """
    write_energy, read_energy, idle_energy = (period * sum(powers) / 2 for powers in (write, read, idle))
    area, leakage_nw = size[0] * size[1], leakage * 1e6
    source = f"github.com/VLSIDA/sky130_sram_macros, simulated, TT, 1.8 V, 25 C (Liberty of commit {commit})"
    return Macro(name, width, depth, 2, area, write_energy, read_energy, idle_energy, leakage_nw, period, source)


def _asap7() -> Iterator[Macro]:
    """Yield the single-port macros of asap7_sram_0p0, 16 to 80 bits wide.

    All its Liberty files have the energies of one bank of 64 bits; here they are scaled by width. The area is that of
    the LEF files, which is proportional to the width plus 8 bits. Leakage and minimum period are 0 in these files. The
    energy of an idle macro is not known; it is 0 here, as if its clock were gated.
    """
    write, read = 0.186927 + 0.132678, 1.44236 + 0.373495 + 2.11495 + 0.360267
    source = "github.com/The-OpenROAD-Project/asap7_sram_0p0, TT, 0.7 V, 25 C, energies of 64 bits scaled by width"
    for rows, column in ((64, 10.38096), (128, 17.28), (256, 32.77584)):
        for width in (16, 18, 20, 32, 34, 36, 40, 48, 64, 72, 74, 80):
            name, share = f"srambank_{rows}x4x{width}_6t122", width / 64
            area = (width + 8) * column
            yield Macro(name, width, 4 * rows, 1, area, share * write, share * read, 0.0, 0.0, 0.0, source)


MACROS: dict[str, tuple[Macro, ...]] = {
    "sky130": (
        _openram(
            "sky130_sram_1kbyte_1rw1r_32x256_8",
            *(32, 256, (479.78, 397.5), 6.875),
            *((2.226912, 2.371604), (2.843456, 2.581878), (1.071456, 1.008020), 0.0009117994),
            "261a97b",
        ),
        _openram(
            "sky130_sram_1kbyte_1rw1r_8x1024_8",
            *(8, 1024, (455.3, 446.46), 6.045),
            *((1.329489, 1.801536), (2.288043, 2.261542), (0.6404195, 0.6218937), 0.0006787435),
            "22ab134",
        ),
        _openram(
            "sky130_sram_2kbyte_1rw1r_32x512_8",
            *(32, 512, (683.1, 416.54), 5.156),
            *((2.553973, 2.793470), (2.868735, 2.519171), (1.146529, 1.169166), 0.001379771),
            "0178860",
        ),
    ),
    "asap7": tuple(_asap7()),
}
"""Macros by process: sky130 has macros that can read and write in the same cycle, asap7 has single-port macros."""


class Arrangement(NamedTuple):
    """A memory with one write and one read port, built from macros of one kind.

    Single-port macros store words in pairs, and writes and reads of pairs alternate, so that the memory can do both in
    every cycle: the macros are twice as wide, and an access of the memory costs half an access of the macros.

    Attributes:
        macro: the kind of macro.
        across: macros side by side in a row; an access uses all macros of one row.
        along: number of rows.
        width, depth: bits per word and number of words of the memory.
    """

    macro: Macro
    across: int
    along: int
    width: int
    depth: int

    @property
    def pieces(self) -> int:
        """Number of macros."""
        return self.across * self.along

    @property
    def area(self) -> float:
        """Area in um2."""
        return self.pieces * self.macro.area

    @property
    def used(self) -> float:
        """The fraction of the macros' bits that the memory needs."""
        return self.width * self.depth / (self.pieces * self.macro.width * self.macro.depth)

    def cycle(self, writes: float, reads: float, period: float) -> float:
        """Return the energy per cycle in pJ, leakage included.

        Args:
            writes: writes per cycle, on average.
            reads: reads per cycle, on average.
            period: clock period in ns.
        """
        macro, share = self.macro, 3 - self.macro.ports
        accesses = writes * (macro.write - macro.idle) + reads * (macro.read - macro.idle)
        standby = macro.idle + macro.leakage * period * 1e-6
        return self.pieces * standby + self.across * accesses / share

    def accesses(self, writes: float, reads: float) -> float:
        """Return the energy of accesses alone in pJ, with the clocks of idle macros gated.

        A write and a read count as two cycles of the macros that they use.
        """
        return self.across * (writes * self.macro.write + reads * self.macro.read) / (3 - self.macro.ports)

    @property
    def leakage(self) -> float:
        """Leakage of all macros in nW."""
        return self.pieces * self.macro.leakage


def arranged(width: int, depth: int, macros: Sequence[Macro]) -> Arrangement:
    """Return the arrangement with the smallest area for a memory and, among equals, with the lowest energy.

    Args:
        width: bits per word.
        depth: number of words.
        macros: macros to choose from, one or more.
    """

    def arrangement(macro: Macro) -> Arrangement:
        pair = 3 - macro.ports
        across, along = -(-width * pair // macro.width), -(-depth // (pair * macro.depth))
        return Arrangement(macro, across, along, width, depth)

    return min(map(arrangement, macros), key=lambda built: (built.area, built.cycle(1.0, 1.0, 1.0)))


class Use(NamedTuple):
    """A memory of a unit in operation.

    Attributes:
        arrangement: the macros that it is built from.
        writes, reads: accesses per cycle, counted in simulation.
    """

    arrangement: Arrangement
    writes: float
    reads: float


def memories_in_use(unit: SoftmaxUnit, netlist: Netlist, activity: Activity, macros: Sequence[Macro]) -> dict[str, Use]:
    """Return the external memories of a unit, with the accesses per cycle of its netlist."""

    def accesses(enable: str) -> float:
        (net,) = netlist.outputs[enable]
        return int(activity.ones[net]) / activity.cycles

    uses = {}
    for memory in unit.memories:
        port = unit.signature.members[memory].signature
        built = arranged(port.width, port.depth, macros)
        uses[memory] = Use(built, accesses(f"{memory}_write_enable"), accesses(f"{memory}_read_enable"))
    return uses


def memory_figures(uses: Mapping[str, Use], clock: float, elements: float) -> dict[str, Any]:
    """Return the figures of a unit's external memories for the record: zeros if it has none.

    Args:
        uses: the memories, by the name of their port.
        clock: clock period in ns.
        elements: scores per cycle.
    """
    shortest = max((use.arrangement.macro.period for use in uses.values()), default=0.0)
    energy = sum(use.arrangement.cycle(use.writes, use.reads, clock) for use in uses.values())
    figures: dict[str, Any] = {
        "memory_area_um2": round(sum(use.arrangement.area for use in uses.values()), 3),
        "memory_energy_pj_per_element": energy / elements,
        "memories": {
            name: {
                "width_bits": use.arrangement.width,
                "depth_words": use.arrangement.depth,
                "macro": use.arrangement.macro.name,
                "across": use.arrangement.across,
                "along": use.arrangement.along,
                "used_percent": 100 * use.arrangement.used,
                "writes_per_element": use.writes / elements,
                "reads_per_element": use.reads / elements,
                "source": use.arrangement.macro.source,
            }
            for name, use in uses.items()
        },
    }
    return figures | ({"memory_fmax_mhz": 1e3 / shortest} if shortest else {})
