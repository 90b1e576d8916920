"""The SRAM in which rows wait: macros with published figures, how a memory is made of them, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from softmaxkit.flow.cells.macros import Macro


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
    """Return a macro of OpenRAM, whose files give the mean power of a cycle with a 1 and of one with a 0.

    Args:
        name: of the macro.
        width: bits of a word.
        depth: number of words.
        size: in um, from its LEF file; the area in its Liberty file is not that of the layout.
        period: in ns, with which it was simulated.
        write: in mW.
        read: in mW.
        idle: in mW.
        leakage: in mW.
        commit: of the Liberty file.
    """
    taken = [period * sum(powers) / 2 for powers in (write, read, idle)]
    source = f"github.com/VLSIDA/sky130_sram_macros, simulated, TT, 1.8 V, 25 C (Liberty of commit {commit})"
    return Macro(name, width, depth, 2, size[0] * size[1], taken[0], taken[1], taken[2], leakage * 1e6, period, source)


def _asap7() -> Iterator[Macro]:
    """Yield the macros of asap7_sram_0p0: of one port, 16 to 80 bits wide.

    All its Liberty files have the energies of one bank of 64 bits; here they are scaled by width. The area is that of
    the LEF files, which is proportional to the width and 8 bits more. Leakage and shortest period are 0 there, and what
    an idle macro takes is not known: its clock is taken to be gated.
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
"""Macros by process: those that read while they write come with sky130, those of one port with asap7."""


class Arrangement(NamedTuple):
    """A memory of one write and one read port, made of macros of one kind.

    Macros of one port hold words in pairs, which are written and read by turns, so that every cycle can do both: they
    are twice as wide, and an access of the memory is half of one of theirs.

    Attributes:
        macro: the kind.
        across: macros side by side, all of which an access takes.
        along: of these, one behind another, of which it takes one.
        width, depth: of the memory.
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
        """Return the energy of a cycle in pJ.

        Args:
            writes: of the memory in a cycle, on average.
            reads: likewise.
            period: of the clock in ns.
        """
        macro, share = self.macro, 3 - self.macro.ports
        accesses = writes * (macro.write - macro.idle) + reads * (macro.read - macro.idle)
        still = macro.idle + macro.leakage * period * 1e-6
        return self.pieces * still + self.across * accesses / share

    def accesses(self, writes: float, reads: float) -> float:
        """Return the energy in pJ of accesses alone, macros that wait being gated.

        A write and a read count as two cycles of the macros that they take.
        """
        return self.across * (writes * self.macro.write + reads * self.macro.read) / (3 - self.macro.ports)

    @property
    def leakage(self) -> float:
        """Leakage of all macros in nW."""
        return self.pieces * self.macro.leakage


def arranged(width: int, depth: int, macros: Sequence[Macro]) -> Arrangement:
    """Return the arrangement of least area for a memory; of equal ones, that which takes least energy.

    Args:
        width: bits of a word.
        depth: number of words.
        macros: to choose from, one or more.
    """

    def made_of(macro: Macro) -> Arrangement:
        pair = 3 - macro.ports
        across, along = -(-width * pair // macro.width), -(-depth // (pair * macro.depth))
        return Arrangement(macro, across, along, width, depth)

    return min(map(made_of, macros), key=lambda made: (made.area, made.cycle(1.0, 1.0, 1.0)))


class Use(NamedTuple):
    """A memory of a unit in operation.

    Attributes:
        arrangement: what it is made of.
        writes, reads: accesses in a cycle, counted in simulation.
    """

    arrangement: Arrangement
    writes: float
    reads: float


def memory_figures(uses: Mapping[str, Use], clock: float, elements: float) -> dict[str, Any]:
    """Return the figures of a unit's memories for the record: zeros of one that has none.

    Args:
        uses: by the name of the port.
        clock: period in ns.
        elements: scores in a cycle.
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
