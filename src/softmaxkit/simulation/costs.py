"""What the parts of an engine cost: area, clock and energy from the records of synthesis, and memories of macros."""

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
from softmaxkit.simulation.arrays import QUERY_KEY, UNIT
from softmaxkit.simulation.hardware import Hardware, HardwareError

FOLDER = "accelerator"
"""Of the records, in the folder of all records."""

Result = Mapping[str, Any]


class NoRecord(ValueError):
    """No record says what a part costs; the message has the command that makes one."""


@dataclass(frozen=True)
class Part:
    """A part of an engine.

    Attributes:
        area_um2: of it.
        energy_pj: of a cycle of an array, of a score of a unit.
        fmax_mhz: of its netlist; infinite where none is known.
        source: the record, and what was scaled.
    """

    area_um2: float
    energy_pj: float
    fmax_mhz: float
    source: str


@dataclass(frozen=True)
class Costs:
    """What an engine's parts cost.

    Attributes:
        hardware: whose engine.
        spec: the method of its unit.
        sizes: of the engine.
        keys: of the longest row that waits.
        records: folder of records.
    """

    hardware: Hardware
    spec: Spec
    pipeline: str
    sizes: EngineSizes
    keys: int
    records: Path

    @cached_property
    def unit(self) -> Part:
        """The softmax unit, from the record of the nearest number of lanes; wider ones are of several side by side.

        Raises:
            NoRecord: there is none of the method in the process.
        """
        path, result = self._nearest()
        share = self.sizes.rows / result["lanes"]
        scaled = "" if share == 1 else f", of {result['lanes']} lanes, its area times {share:g}"
        area, energy = result["area_um2"] * share, result["energy_pj_per_element"]
        return Part(area, energy, result["fmax_mhz"], f"{path.name}{scaled}")

    @cached_property
    def unit_memories(self) -> dict[str, tuple[Arrangement, float]]:
        """The memories in which rows of the unit wait, with the energy of a score in pJ: of accesses counted there."""
        _, result = self._nearest()
        lanes, memories = result["lanes"], {}
        for name, memory in result["memories"].items():
            width = -(-memory["width_bits"] * self.sizes.rows // lanes)
            rest = memory["depth_words"] - beats(result["max_row"], lanes)
            made = arranged(width, beats(self.keys, self.sizes.rows) + max(rest, 0), self._macros)
            share = lanes / self.sizes.rows  # a word has so many times fewer scores
            writes, reads = (memory[f"{kind}_per_element"] * share for kind in ("writes", "reads"))
            memories[name] = made, made.accesses(writes, reads)
        return memories

    def _nearest(self) -> tuple[Path, Result]:
        """Return the record of the unit with the nearest number of lanes.

        Raises:
            NoRecord: there is none of the method in the process.
        """
        lanes, spec = self.sizes.rows, self.spec.to_json()
        if self.pipeline == "deferred":
            found = [(path, _as_unit(each)) for path, each in self._arrays(UNIT)]
        else:
            found = [each for each in self._results("units-*.json") if each[1].get("spec") == spec]
        if not found:
            folder, process = self.records / FOLDER, self.hardware.process
            loadable = " --constants loadable" if has_constants(self.spec) else ""
            method = self.spec.method if self._is_default else "--spec FILE"
            raise NoRecord(
                f"no record in {folder} says what a unit of {self.spec.name} costs in {process}: softmaxkit synth "
                f"{method} --lanes {lanes} --storage memory{loadable} --cells {process} --clock "
                f"{self._period:g} --json {folder}/units-{self.spec.method}-{lanes}.json"
            )
        return min(found, key=lambda each: abs(np.log(each[1]["lanes"] / lanes)))

    def array(self, name: str) -> Part:
        """Return an array, `query-key` or `value`, fitted to the record of arrays.

        Area and energy of a cycle are sums of one share for each multiplier, one for each row (of the query-key array)
        or column (of the other), one for each channel, and one for all.

        Raises:
            NoRecord: there is none of the method in the process.
        """
        found = self._arrays(name)
        results = [each for _, each in found]
        across = "rows" if name == QUERY_KEY else "columns"
        counts = np.asarray([_counts(each, across) for each in results], float)
        own = np.asarray(_counts(vars(self.sizes), across), float)

        def fitted(figure: str) -> float:
            shares, *_ = np.linalg.lstsq(counts, np.asarray([each[figure] for each in results]), rcond=None)
            return float(own @ shares)

        fmax = min(each["fmax_mhz"] for each in results)
        return Part(fitted("area_um2"), fitted("energy_pj_per_cycle"), fmax, f"{found[0][0].name}, fitted to its sizes")

    def _arrays(self, name: str) -> list[tuple[Path, Result]]:
        """Return the records of a part that `softmaxkit.simulation.arrays` measures, all of one spec.

        An array is told by its widths: those of another method do, where it has none of its own.

        Raises:
            NoRecord: there is none of such widths in the process.
        """
        wanted = _widths(name, self.spec, self.pipeline)
        found: dict[str, list[tuple[Path, Result]]] = {}
        for path, each in self._results("arrays-*.json"):
            if each["array"] == name and _widths(name, Spec.from_json(each["spec"]), each["pipeline"]) == wanted:
                found.setdefault(json.dumps([each["spec"], each["pipeline"]]), []).append((path, each))
        if not found:
            folder, process = self.records / FOLDER, self.hardware.process
            method = f"--method {self.spec.method}" if self._is_default else "--spec FILE"
            raise NoRecord(
                f"no record in {folder} says what the {name} of {self.spec.name} costs in {process}, pipeline "
                f"{self.pipeline}: python -m softmaxkit.simulation.arrays --cells {process} {method} "
                f"--json {folder}/arrays-{self.spec.method}-{process}.json"
            )
        own = json.dumps([self.spec.to_json(), self.pipeline])
        return found.get(own) or next(iter(found.values()))

    def buffer(self, size: int) -> Arrangement:
        """Return the arrangement of macros of a buffer of so many bytes, a word for a cycle of the array."""
        width = self.sizes.word_bits
        return arranged(width, -(-8 * size // width), self._macros)

    def access(self, made: Arrangement) -> tuple[float, float]:
        """Return what it takes to write a word of a buffer, and to read one, in pJ."""
        return made.accesses(1, 0), made.accesses(0, 1)

    def check_clock(self, parts: Mapping[str, Part]) -> None:
        """Refuse a clock that the netlists of the records do not reach.

        Raises:
            HardwareError: there is one; the message has the key, and the clock that can be.
        """
        slowest = min(parts, key=lambda name: parts[name].fmax_mhz)
        if self.hardware.clock_mhz > parts[slowest].fmax_mhz:
            raise HardwareError(
                f"clock_mhz: the {slowest} of {self.spec.method} in {self.hardware.process} reaches "
                f"{parts[slowest].fmax_mhz:.0f} MHz ({parts[slowest].source}), not {self.hardware.clock_mhz:g}"
            )

    @property
    def _is_default(self) -> bool:
        """Is the spec what commands take by the method's name alone?"""
        return self.spec == METHODS[self.spec.method]().for_hardware()

    @property
    def _period(self) -> float:
        """The clock's period in ns."""
        return 1e3 / self.hardware.clock_mhz

    @property
    def _macros(self) -> Sequence[Any]:
        return MACROS[self.hardware.process]

    def _results(self, pattern: str) -> Iterator[tuple[Path, Result]]:
        """Yield the results of the records of a name, of this process."""
        for path in sorted((self.records / FOLDER).glob(pattern)):
            for result in _read(path, path.stat().st_mtime_ns)["results"]:
                if result.get("cells") == self.hardware.process:
                    yield path, result


@lru_cache
def _read(path: Path, changed: int) -> dict[str, Any]:
    """Return a record; it is read once for each time that it was changed.

    Raises:
        ValueError: it is none.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no record: {error}") from None
    return record


def _counts(result: Result, across: str) -> list[int]:
    """Return of what an array has how many: multipliers, rows or columns, channels, and the one array itself."""
    return [result["rows"] * result["columns"], result[across], result["channels"], 1]


def _as_unit(result: Result) -> Result:
    """Return the record of a deferred unit, which holds no rows, as one of `synth`."""
    lanes = result["rows"]
    energy = result["energy_pj_per_cycle"] * result["pace"] / lanes
    return {**result, "lanes": lanes, "energy_pj_per_element": energy, "max_row": result["max_keys"], "memories": {}}


@lru_cache
def _widths(name: str, spec: Spec, pipeline: str) -> tuple[Any, ...]:
    """Return what tells a part from those of other methods: widths of score codes, of weights, or the spec itself."""
    if name == UNIT:
        return (spec,)
    lanes = 2
    unit = spec.deferred_unit(lanes) if pipeline == "deferred" else spec.unit(lanes, spec.examples()[0])
    if name == QUERY_KEY:
        return unit.code_shape.width, unit.code_shape.signed
    if isinstance(unit, SoftmaxUnit):
        return (unit.weight_bits,)
    return unit.weight_bits, unit.weights.payload.shape().size, unit.factors.payload.shape().size
