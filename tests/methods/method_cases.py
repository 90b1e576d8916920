"""The format of the files in `cases`: the inputs that the shared tests require from each method."""

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
    """A spec, and real parameters of a layer for it.

    Attributes:
        spec: the spec.
        numbers: arguments of `Spec.constants`.
        unit: the form of its unit that the fast tests verify: a storage, or "baked"; empty for most.
    """

    spec: Spec
    numbers: Numbers = NO_NUMBERS
    unit: str = ""

    @property
    def constants(self) -> Constants:
        return self.spec.constants(**self.numbers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of `Spec.reference`: `numbers` without the scale, which affects only the integers."""
        return {name: value for name, value in self.numbers.items() if name != "scale"}

    def __str__(self) -> str:
        return self.spec.name


class OracleCase(NamedTuple):
    """A spec whose golden model is compared with the oracle.

    Attributes:
        thousands: thousands of rows in the slow test; the fast test uses a fraction of them.
        spec: the spec.
        numbers: arguments of `Spec.constants`.
    """

    thousands: int
    spec: Spec
    numbers: Numbers = NO_NUMBERS

    def __str__(self) -> str:
        return "; ".join([self.spec.name, *(f"{name}={value:g}" for name, value in self.numbers.items())])


class NarrowUnit(NamedTuple):
    """A unit with narrow formats, so that it builds quickly, few codes cover many cases, and sums saturate.

    Attributes:
        spec: the spec.
        sizes: arguments of `Spec.unit`.
    """

    spec: Spec
    sizes: Mapping[str, Any] = MappingProxyType({"lanes": 2, "max_row": 12})


class ProofCase(NamedTuple):
    """A unit that is narrow enough for quick proofs, with one lane and rows of two scores.

    Attributes:
        spec: the spec.
        numbers: arguments of `Spec.constants`.
        depth: the smallest number of registers, so that as much as possible happens within the proof's cycles.
        two_rows: cycles until two rows can have left; 0 for a unit that is proved for unbounded time.
    """

    spec: Spec
    numbers: Numbers
    depth: int
    two_rows: int


class SourceFault(NamedTuple):
    """A fault injected into the source of a unit, which verification must detect.

    Attributes:
        what: description.
        unit: name of the narrow unit that shows the fault.
        owner: where the function is looked up: a module below `softmaxkit`, or "module:name".
        function: name of the function, method, or dict entry.
        right: text that occurs exactly once in its source.
        wrong: the replacement.
        quick: whether the fast tests inject it too.
    """

    what: str
    unit: str
    owner: str
    function: str
    right: str
    wrong: str
    quick: bool = False


def uniform_codes(rng: np.random.Generator, spec: Spec, shape: tuple[int, ...]) -> Codes:
    """Draw uniformly from the full range of codes."""
    low, high = spec.code_range()
    return rng.integers(low, high, shape, endpoint=True)


def ends_of_range(spec: Spec) -> list[int]:
    """Return the two smallest and the two largest codes."""
    low, high = spec.code_range()
    return [low, high, low + 1, high - 1]


def around_zero(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    return np.zeros((rows, 1))


def nothing(scores: NDArray[np.float64], mask: Mask) -> dict[str, Any]:
    return {}


def always(spec: Any) -> bool:
    return True


def buildable(spec: type[Spec], **choices: Sequence[Any]) -> Iterator[Any]:
    """Yield the specs of all combinations of choices that the spec accepts."""
    for values in itertools.product(*choices.values()):
        try:
            yield spec(**dict(zip(choices, values, strict=True)))
        except ValueError:
            continue


@dataclass(frozen=True)
class MethodCases:
    """The inputs that the shared tests require from a method.

    Attributes:
        specs: cases for most tests; the first has the default spec.
        oracle: independent integer model of one row, (spec, codes, mask, constants) -> results, written only from
            `docs/arithmetic.md` and with the helpers of `tests/oracle.py`.
        oracle_cases: cases for the oracle, at least 100,000 rows in total.
        changed_specs: pairs of a spec and field changes that the comparison with the oracle must detect.
        changed_constants: triples of a spec, a field of its constants, and an index into it (None for a single
            number); decrementing that entry must be detected.
        refused: pairs of a function that builds an invalid spec or invalid constants, and the expected message.
        refused_fields: pairs of invalid JSON fields and the expected message.
        raw_codes: draws codes, (rng, spec, shape).
        extreme_codes: returns the codes of a spec that are special cases.
        score_centres: draws the centres of the scores of each row, (rng, rows) -> (rows, 1), such that results are of
            medium size.
        in_any_order: returns whether the results of a spec do not depend on the order of keys.
        float_tolerance: tolerance of the float mode against the reference, relative to the largest probability or 1.
        smooth: whether the gradient of the float form agrees with finite differences.
        whole_row: returns the parameters that a partial state requires of the whole row, (scores, mask) -> parameters;
            None if the method has no partial state.
        units: specs whose units differ in structure; the default spec if empty.
        reloaded: specs whose units are tested while constants are reloaded continually.
        forms: specs whose units are verified in every form.
        timed: specs and sizes of further units whose stated cycles are measured.
        refused_units: triples of a spec, sizes that its unit does not support, and the expected message.
        narrow: small units for fault injection, by name.
        faults: faults to inject.
        proof: the unit for proofs.
        row_buffers: pairs of a narrow unit and the module that builds its row buffer, to test with too short a buffer.
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
