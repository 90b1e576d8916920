"""Costs of the parts of an engine: area, clock and energy from synthesis records, and memories built of SRAM macros."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.flow.sram import MACROS, Arrangement, arranged
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import has_constants
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.record import Figures, read_record
from softmaxkit.simulation.arrays import QUERY_KEY, UNIT
from softmaxkit.simulation.hardware import Hardware, HardwareError

FOLDER = "accelerator"
"""Name of the folder with these records, inside the folder of all records."""

Result = Mapping[str, Any]


class NoRecord(ValueError):
    """No record has the cost of a part; the message contains the command that produces one."""


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
        """The softmax unit, from the record with the nearest number of lanes, its area scaled to the engine's.

        Raises:
            NoRecord: the method has no record in this process.
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
            memory = Figures(path, figures)
            width = -(-memory["width_bits"] * self.sizes.rows // lanes)
            rest = memory["depth_words"] - beats(result["max_row"], lanes)
            made = arranged(width, beats(self.keys, self.sizes.rows) + max(rest, 0), self._macros)
            share = lanes / self.sizes.rows  # accesses per score scale inversely with the scores in a word
            writes, reads = (memory[f"{kind}_per_element"] * share for kind in ("writes", "reads"))
            memories[name] = made, made.accesses(writes, reads)
        return memories

    def _nearest(self) -> tuple[Path, Result]:
        """Return the record of the unit with the nearest number of lanes, and its path.

        Raises:
            NoRecord: the method has no record in this process.
        """
        lanes, spec = self.sizes.rows, self.spec.to_json()
        if self.pipeline == "deferred":
            units = self._arrays(UNIT)
            candidates: list[tuple[Path, Result]] = [(path, Figures(path, _as_unit(result))) for path, result in units]
        else:
            candidates = [
                (path, result) for path, result in self._results("units-*.json") if result.get("spec") == spec
            ]
        if not candidates:
            folder, process = self.records / FOLDER, self.hardware.process
            loadable = " --constants loadable" if has_constants(self.spec) else ""
            method = self.spec.method if self._is_default else "--spec FILE"
            raise NoRecord(
                f"no record in {folder} has the cost of a unit of {self.spec.name} in {process}; run softmaxkit synth "
                f"{method} --lanes {lanes} --storage memory{loadable} --cells {process} --clock "
                f"{self._period:g} --json {folder}/units-{self.spec.method}-{lanes}.json"
            )
        return min(candidates, key=lambda candidate: abs(np.log(candidate[1]["lanes"] / lanes)))

    def array(self, name: str) -> Part:
        """Return the cost of an array, `query-key` or `value`, by a least-squares fit to the records of arrays.

        Area and energy per cycle are modelled as the sum of a cost per multiplier, one per row (query-key array) or
        column (value array), one per channel, and a constant.

        Raises:
            NoRecord: there are no records of such an array in this process.
        """
        measured = self._arrays(name)
        results = [result for _, result in measured]
        across = "rows" if name == QUERY_KEY else "columns"
        counts = np.asarray([_counts(result, across) for result in results], float)
        own = np.asarray(_counts(vars(self.sizes), across), float)

        def fitted(figure: str) -> float:
            shares, *_ = np.linalg.lstsq(counts, np.asarray([result[figure] for result in results]), rcond=None)
            return float(own @ shares)

        fmax = min(result["fmax_mhz"] for result in results)
        return Part(
            fitted("area_um2"), fitted("energy_pj_per_cycle"), fmax, f"{measured[0][0].name}, fitted to its sizes"
        )

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
            folder, process = self.records / FOLDER, self.hardware.process
            method = f"--method {self.spec.method}" if self._is_default else "--spec FILE"
            raise NoRecord(
                f"no record in {folder} has the cost of the {name} of {self.spec.name} in {process}, pipeline "
                f"{self.pipeline}; run python -m softmaxkit.simulation.arrays --cells {process} {method} "
                f"--json {folder}/arrays-{self.spec.method}-{process}.json"
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
    def _is_default(self) -> bool:
        """Whether the method's name alone selects this spec on the command line."""
        return self.spec == METHODS[self.spec.method]().for_hardware()

    @property
    def _period(self) -> float:
        """The clock period in ns."""
        return 1e3 / self.hardware.clock_mhz

    @property
    def _macros(self) -> Sequence[Any]:
        return MACROS[self.hardware.process]

    def _results(self, pattern: str) -> Iterator[tuple[Path, Result]]:
        """Yield the results for this process in records whose file name matches a pattern, with their paths."""
        for path in sorted((self.records / FOLDER).glob(pattern)):
            for result in _read(path, path.stat().st_mtime_ns)["results"]:
                if result.get("cells") == self.hardware.process:
                    yield path, Figures(path, result)


@lru_cache
def _read(path: Path, changed: int) -> dict[str, Any]:
    """Return a record, cached until its modification time `changed` differs."""
    return read_record(path)


def _counts(result: Result, across: str) -> list[int]:
    """Return the regressors of the fit: numbers of multipliers, of rows or columns, of channels, and 1."""
    return [result["rows"] * result["columns"], result[across], result["channels"], 1]


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
