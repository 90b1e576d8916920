"""Costs of the parts of an engine: area, clock and energy from synthesis records, and memories built of SRAM macros."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.flow.sram import MACROS, Arrangement, arranged
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.record import Figures, read_record
from softmaxkit.simulation.arrays import QUERY_KEY, UNIT, VALUE
from softmaxkit.simulation.fit import array_counts, beyond, fit_costs
from softmaxkit.simulation.hardware import Hardware, HardwareError
from softmaxkit.simulation.record_commands import arrays_command, unit_command

FOLDER = "accelerator"
"""Name of the folder with these records, inside the folder of all records."""

PART_NAMES = {QUERY_KEY: "QK array", VALUE: "PV array", UNIT: "softmax unit"}
"""What simulations call the parts that `softmaxkit.simulation.arrays` measures."""

NUMBERS = (
    *("lanes", "max_row", "rows", "columns", "channels", "max_keys", "pace"),
    *("area_um2", "energy_pj_per_element", "energy_pj_per_cycle", "fmax_mhz"),
)
"""Figures of the records that are numbers."""

NUMBERS_OF_MEMORIES = ("width_bits", "depth_words", "writes_per_element", "reads_per_element")
"""Those of a unit's row memories."""

Result = Mapping[str, Any]


class NoRecord(ValueError):
    """No record has the cost of a part.

    Attributes:
        reason: the part that lacks one.
        command: the command that makes its record.
    """

    def __init__(self, reason: str, command: str) -> None:
        super().__init__(f"{reason}; run {command}")
        self.reason, self.command = reason, command


@dataclass(frozen=True)
class Part:
    """The cost of a part of an engine.

    Attributes:
        area_um2: cell area.
        energy_pj: energy per cycle of an array, or per score of a unit.
        fmax_mhz: maximum clock of its netlist.
        source: the record, and how it was scaled.
    """

    area_um2: float
    energy_pj: float
    fmax_mhz: float
    source: str


@dataclass(frozen=True)
class Costs:
    """The costs of an engine's parts.

    Attributes:
        hardware: the chip with the engine.
        spec: the method of its unit.
        pipeline: the engine's pipeline.
        sizes: the engine's sizes.
        keys: keys of the longest row that the unit stores.
        records: folder of all records.
    """

    hardware: Hardware
    spec: Spec
    pipeline: str
    sizes: EngineSizes
    keys: int
    records: Path

    @cached_property
    def unit(self) -> Part:
        """The softmax unit, from the record with the most lanes that the engine's cover, its area scaled to them.

        Raises:
            NoRecord: the method has no record of so few lanes in this process.
        """
        path, result = self._nearest()
        share = self.sizes.rows / result["lanes"]
        scaled = "" if share == 1 else f", of {result['lanes']} lanes, its area times {share:g}"
        area, energy = result["area_um2"] * share, result["energy_pj_per_element"]
        return Part(area, energy, result["fmax_mhz"], f"{path.name}{scaled}")

    @cached_property
    def unit_memories(self) -> dict[str, tuple[Arrangement, float]]:
        """The unit's row memories, each with its access energy per score in pJ, by the recorded access counts."""
        path, result = self._nearest()
        lanes, memories = result["lanes"], {}
        for name, figures in result["memories"].items():
            memory = Figures(path, figures, NUMBERS_OF_MEMORIES)
            width = -(-memory["width_bits"] * self.sizes.rows // lanes)
            rest = memory["depth_words"] - beats(result["max_row"], lanes)
            made = arranged(width, beats(self.keys, self.sizes.rows) + max(rest, 0), self._macros)
            share = lanes / self.sizes.rows  # accesses per score scale inversely with the scores in a word
            writes, reads = (memory[f"{kind}_per_element"] * share for kind in ("writes", "reads"))
            memories[name] = made, made.accesses(writes, reads)
        return memories

    def _nearest(self) -> tuple[Path, Result]:
        """Return the record of the unit with the most lanes that the engine's cover, and its path.

        Wider units are not scaled down, since what lanes share does not shrink with them.

        Raises:
            NoRecord: the method has no record of so few lanes in this process.
        """
        lanes, spec = self.sizes.rows, self.spec.to_json()
        if self.pipeline == "deferred":
            units = self._arrays(UNIT)
            candidates: list[tuple[Path, Result]] = [(path, Figures(path, _as_unit(result))) for path, result in units]
        else:
            candidates = [
                (path, result) for path, result in self._results("units-*.json") if result.get("spec") == spec
            ]
        narrow = [candidate for candidate in candidates if candidate[1]["lanes"] <= lanes]
        if not narrow:
            folder, process = self.records / FOLDER, self.hardware.process
            raise NoRecord(
                f"no record in {folder} has the cost of a unit of {self.spec.name} in {process} with at most {lanes} "
                "lanes",
                unit_command(self.spec, self.pipeline, self.hardware, lanes, folder),
            )
        return max(narrow, key=lambda candidate: candidate[1]["lanes"])

    def array(self, name: str) -> Part:
        """Return the cost of an array, `query-key` or `value`, by a least-squares fit to the records of arrays.

        Area and energy per cycle are modelled as the sum of a cost per multiplier, one per row (query-key array) or
        column (value array), one per channel, and a constant, none of them negative. The source says how well the sum
        meets the recorded arrays, and how far they are from this one.

        Raises:
            NoRecord: there are no records of such an array in this process.
        """
        measured = self._arrays(name)
        results = [result for _, result in measured]
        across = "rows" if name == QUERY_KEY else "columns"
        counts, own = [array_counts(result, across) for result in results], array_counts(vars(self.sizes), across)
        area, energy = (
            fit_costs(counts, [result[figure] for result in results]) for figure in ("area_um2", "energy_pj_per_cycle")
        )
        files = " and ".join(dict.fromkeys(path.name for path, _ in measured))
        source = (
            f"{files}, fitted to {len(results)} netlists (area within {100 * area.error:.1f}%, energy within "
            f"{100 * energy.error:.1f}%){beyond(counts, own)}"
        )
        fmax = min(result["fmax_mhz"] for result in results)
        return Part(float(area.costs @ own), float(energy.costs @ own), fmax, source)

    def _arrays(self, name: str) -> list[tuple[Path, Result]]:
        """Return the records of a part measured by `softmaxkit.simulation.arrays`, all of one spec and pipeline.

        Arrays with equal bit widths are equal, so another method's records are used if this one has none.

        Raises:
            NoRecord: there are no records of these bit widths in this process.
        """
        wanted = _widths(name, self.spec, self.pipeline)
        matching: dict[str, list[tuple[Path, Result]]] = {}
        for path, result in self._results("arrays-*.json"):
            if result["array"] == name and _widths(name, Spec.from_json(result["spec"]), result["pipeline"]) == wanted:
                matching.setdefault(json.dumps([result["spec"], result["pipeline"]]), []).append((path, result))
        if not matching:
            folder = self.records / FOLDER
            raise NoRecord(
                f"no record in {folder} has the cost of the {PART_NAMES[name]} of {self.spec.name} in "
                f"{self.hardware.process}, pipeline {self.pipeline}",
                arrays_command(self.spec, self.hardware, folder),
            )
        own = json.dumps([self.spec.to_json(), self.pipeline])
        return matching.get(own) or next(iter(matching.values()))

    def buffer(self, size: int) -> Arrangement:
        """Return the macros of a buffer of `size` bytes, whose words hold the operands of one array cycle."""
        width = self.sizes.word_bits
        return arranged(width, -(-8 * size // width), self._macros)

    def access(self, made: Arrangement) -> tuple[float, float]:
        """Return the energies of writing and of reading one word of a buffer, in pJ."""
        return made.accesses(1, 0), made.accesses(0, 1)

    def check_clock(self, parts: Mapping[str, Part]) -> None:
        """Check that the netlists of all parts reach the configured clock.

        Raises:
            HardwareError: one does not; the message names the key and the highest possible clock.
        """
        slowest = min(parts, key=lambda name: parts[name].fmax_mhz)
        if self.hardware.clock_mhz > parts[slowest].fmax_mhz:
            raise HardwareError(
                f"clock_mhz: the {slowest} of {self.spec.method} in {self.hardware.process} reaches "
                f"{parts[slowest].fmax_mhz:.0f} MHz ({parts[slowest].source}), not {self.hardware.clock_mhz:g}"
            )

    @property
    def _macros(self) -> Sequence[Any]:
        return MACROS[self.hardware.process]

    def _results(self, pattern: str) -> Iterator[tuple[Path, Result]]:
        """Yield the results for this process in records whose file name matches a pattern, with their paths."""
        for path in sorted((self.records / FOLDER).glob(pattern)):
            for result in _read(path, path.stat().st_mtime_ns)["results"]:
                if result.get("cells") == self.hardware.process:
                    yield path, Figures(path, result, NUMBERS)


@lru_cache
def _read(path: Path, changed: int) -> dict[str, Any]:
    """Return a record, cached until its modification time `changed` differs."""
    return read_record(path)


def _as_unit(result: Result) -> Result:
    """Convert the result of a deferred unit, which stores no rows, to the form of a `synth` result."""
    lanes = result["rows"]
    energy = result["energy_pj_per_cycle"] * result["pace"] / lanes
    return {**result, "lanes": lanes, "energy_pj_per_element": energy, "max_row": result["max_keys"], "memories": {}}


@lru_cache
def _widths(name: str, spec: Spec, pipeline: str) -> tuple[Any, ...]:
    """Return what identifies a part's hardware: the widths of score codes or of weights; for a unit, its spec."""
    if name == UNIT:
        return (spec,)
    lanes = 2
    unit = spec.deferred_unit(lanes) if pipeline == "deferred" else spec.unit(lanes, spec.examples()[0])
    if name == QUERY_KEY:
        return unit.code_shape.width, unit.code_shape.signed
    if isinstance(unit, SoftmaxUnit):
        return (unit.weight_bits,)
    return unit.weight_bits, unit.weights.payload.shape().size, unit.factors.payload.shape().size
