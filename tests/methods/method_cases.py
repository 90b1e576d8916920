"""What a file of `cases` says of its method: all that tests which all methods share need to know of one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxkit import Spec
from softmaxkit.methods.base.constants import Constants

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]
Numbers = Mapping[str, Any]
Oracle = Callable[[Any, Sequence[int], Sequence[bool], Any], list[int]]
NO_NUMBERS: Numbers = MappingProxyType({})


class Case(NamedTuple):
    """A spec, and the real numbers of a layer for it.

    Attributes:
        spec: which.
        numbers: as `Spec.constants` takes them.
        unit: the form of its unit that is verified by the quick tests too: a storage, or "baked"; most have none.
    """

    spec: Spec
    numbers: Numbers = NO_NUMBERS
    unit: str = ""

    @property
    def constants(self) -> Constants:
        return self.spec.constants(**self.numbers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The numbers that `Spec.reference` takes: without the scale, which belongs to integers alone."""
        return {name: value for name, value in self.numbers.items() if name != "scale"}

    def __str__(self) -> str:
        return self.spec.name


class OracleCase(NamedTuple):
    """A spec whose golden is compared with the oracle.

    Attributes:
        thousands: of rows, in the slow test; the quick one takes some of each.
        spec: which.
        numbers: as `Spec.constants` takes them.
    """

    thousands: int
    spec: Spec
    numbers: Numbers = NO_NUMBERS

    def __str__(self) -> str:
        return "; ".join([self.spec.name, *(f"{name}={value:g}" for name, value in self.numbers.items())])


class NarrowUnit(NamedTuple):
    """A unit of narrow numbers, so that it is built quickly, few codes say much, and sums saturate.

    Attributes:
        spec: which.
        sizes: of the unit.
    """

    spec: Spec
    sizes: Mapping[str, Any] = MappingProxyType({"lanes": 2, "max_row": 12})


class ProofCase(NamedTuple):
    """A unit so narrow that proofs about it are soon made; of one lane and rows of two scores.

    Attributes:
        spec: which.
        numbers: as `Spec.constants` takes them.
        depth: the fewest registers: the shorter a unit, the more happens within a number of cycles.
        two_rows: cycles until two rows can be out; 0 of a unit that is proved for all time.
    """

    spec: Spec
    numbers: Numbers
    depth: int
    two_rows: int


class SourceFault(NamedTuple):
    """A fault in the source of a unit, which verification has to find.

    Attributes:
        what: in words.
        unit: the narrow unit that shows it.
        owner: of the function, "module:name" below `softmaxkit`, or a module alone.
        function: the name of a function, method, or entry of a dict.
        right: text that is in its source once.
        wrong: what stands there instead.
        quick: is it put in by the quick tests too?
    """

    what: str
    unit: str
    owner: str
    function: str
    right: str
    wrong: str
    quick: bool = False


def uniform_codes(rng: np.random.Generator, spec: Spec, shape: tuple[int, ...]) -> Codes:
    """Draw from the full range of codes."""
    low, high = spec.code_range()
    return rng.integers(low, high, shape, endpoint=True)


def ends_of_range(spec: Spec) -> list[int]:
    """Return the least and the largest codes."""
    low, high = spec.code_range()
    return [low, high, low + 1, high - 1]


def around_zero(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    return np.zeros((rows, 1))


def nothing(scores: NDArray[np.float64], mask: Mask) -> dict[str, Any]:
    return {}


def always(spec: Any) -> bool:
    return True


def buildable(spec: type[Spec], **choices: Sequence[Any]) -> Iterator[Any]:
    """Yield the specs of all choices that do not contradict each other."""
    for values in itertools.product(*choices.values()):
        try:
            yield spec(**dict(zip(choices, values, strict=True)))
        except ValueError:
            continue


@dataclass(frozen=True)
class MethodCases:
    """What tests that all methods share need to know of one.

    Attributes:
        specs: what most tests go through; the first is the default spec.
        oracle: the integers of one row once more, (spec, codes, mask, constants) -> results, written from
            `docs/arithmetic.md` alone with what `tests/oracle.py` has.
        oracle_cases: 100 thousand rows or more, together.
        changed_specs: a spec and changes to it that the oracle has to notice.
        changed_constants: a spec, a field of its constants, and the entry in it (None of a number), of which 1 less
            has to be noticed.
        refused: what makes a spec or constants that cannot be, and what is said.
        refused_fields: fields in JSON that cannot be, and what is said.
        raw_codes: draws codes, (rng, spec, shape).
        extreme_codes: codes of a spec at which something special happens.
        score_centres: draws what the scores of a row lie around, (rng, rows) -> (rows, 1), and results are middling.
        in_any_order: is a spec one of those with which the order of keys changes no result?
        float_tolerance: of the module's float mode against the reference, of the largest probability or of 1.
        smooth: has the float form a gradient that finite differences show?
        whole_row: what a partial state asks for of the whole row, (scores, mask) -> parameters; None where the method
            has no partial state.
        units: specs whose units are built each in a way of its own; the default where empty.
        reloaded: specs whose units are given other constants all the time.
        forms: specs whose units are verified in every form.
        timed: specs and sizes of more units whose stated cycles are counted.
        refused_units: a spec, sizes that its unit cannot have, and what is said.
        narrow: small units for faults, by name.
        faults: in the sources.
        proof: a unit for proofs.
        row_buffers: a narrow unit, and the module through which it gets a buffer that must not be too short.
    """

    specs: Sequence[Case]
    oracle: Oracle
    oracle_cases: Sequence[OracleCase]
    changed_specs: Sequence[tuple[Spec, dict[str, Any]]]
    narrow: Mapping[str, NarrowUnit]
    faults: Sequence[SourceFault]
    proof: ProofCase
    changed_constants: Sequence[tuple[Spec, str, int | None]] = ()
    refused: Sequence[tuple[Callable[[], object], str]] = ()
    refused_fields: Sequence[tuple[dict[str, Any], str]] = ()
    raw_codes: Callable[[np.random.Generator, Any, tuple[int, ...]], Codes] = uniform_codes
    extreme_codes: Callable[[Any], list[int]] = ends_of_range
    score_centres: Callable[[np.random.Generator, int], NDArray[np.float64]] = around_zero
    in_any_order: Callable[[Any], bool] = always
    float_tolerance: float = 1e-14
    smooth: bool = True
    whole_row: Callable[[NDArray[np.float64], Mask], dict[str, Any]] | None = nothing
    units: Sequence[Spec] = ()
    reloaded: Sequence[Spec] = ()
    forms: Sequence[Spec] = ()
    timed: Sequence[tuple[Spec, dict[str, Any]]] = ()
    refused_units: Sequence[tuple[Spec, dict[str, Any], str]] = ()
    row_buffers: Sequence[tuple[str, str]] = ()

    @property
    def default(self) -> Case:
        return self.specs[0]
