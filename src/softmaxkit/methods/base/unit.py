"""What every method's hardware unit answers: one interface, stated cycles, and how constants are loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from amaranth.hdl import Module, Shape, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.parts import Part
from softmaxkit.blocks.requantise import round_places, saturate_to
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import beats, check_sizes, result_layout, score_layout
from softmaxkit.formats import Array
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.methods.base.spec import Spec


class Schedule(NamedTuple):
    """When a unit takes and gives a row, in cycles from its first beat.

    Attributes:
        first: of its first result.
        last: of its last result.
        interval: from its first beat to that of the next, in a stream of such rows.
        rows_held: rows that are inside at once, at most, where one begins every `interval` cycles, the one whose
            results leave among them. A source that is faster fills the unit's buffers with more before it is stopped.
    """

    first: int
    last: int
    interval: int
    rows_held: int


class TakesScores(wiring.Component):
    """What takes a method's score codes.

    Attributes:
        spec: the method.
    """

    spec: Spec

    @property
    def code_shape(self) -> Shape:
        """Shape of a score code: signed, as wide as the spec says."""
        return Shape(self.spec.score_bits, signed=True)

    def score_code(self, m: Module, name: str, product: Value, places: int) -> Value:
        """Build `Spec.scores_of`: return the score code of a signed product."""
        return saturate_to(m, name, round_places(m, f"{name}_rounded", product, places), self.code_shape)

    def refuses(self, length: int, spacing: int) -> int:
        """Return the cycles for which the last scores of a row of `length` are not taken; most units take all at once.

        Args:
            length: scores of the row; the one before was no longer.
            spacing: cycles from a beat of scores to the next.
        """
        return 0


class SoftmaxUnit(TakesScores):
    """A streaming unit: rows of score codes in, rows of results out, equal to `spec.golden` bit for bit.

    Subclasses are called `Unit`, one in the file `unit.py` of each method, and take `(spec, lanes, constants, max_row,
    depth, storage)`.

    Args:
        spec: the method.
        lanes: positions a beat.
        constants: baked in; None where they are loaded through the port `configuration`, or the method has none.
        max_row: scores of the longest row.
        storage: of rows that wait and of loadable tables, see `softmaxkit.blocks.storage`.
        registers: the map of the port `configuration`, where there is one.
        memories: signatures of the ports to memories, by name, where `storage` is "memory".
        masks: mask bits and results a lane.

    Attributes:
        scores: stream in, of `score_layout`; with several sets of constants, rows say which is theirs.
        results: stream out, of `result_layout`.
        takes_sets: can it be built with several sets of loadable constants, by the argument `sets`?
        sets: of constants.
        holds_rows: do rows wait in it, so that one of more than `max_row` scores stops it?
        whole_rows: does it take rows of `max_row` scores alone?
        depth: pipeline registers from scores to results, buffers not counted.
        configuration: stream in, of `registers.layout`.

    Raises:
        ValueError: sizes that cannot be built, or constants of more than one head.
        TypeError: constants of another method.
    """

    depth: int
    takes_sets: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = True
    whole_rows: ClassVar[bool] = False

    def __init__(
        self,
        spec: Spec,
        lanes: int,
        constants: Constants | None,
        max_row: int,
        storage: str,
        registers: RegisterMap | None = None,
        memories: dict[str, wiring.Signature] | None = None,
        masks: int = 1,
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        if constants is not None:
            check_constants(spec, constants)
        self.spec, self.lanes, self.constants, self.max_row, self.storage = spec, lanes, constants, max_row, storage
        self.registers, self.memories, self.masks = registers, tuple(memories or ()), masks
        ports: dict[str, Any] = {
            "scores": In(stream.Signature(score_layout(self.code_shape, lanes, masks, self.set_bits))),
            "results": Out(stream.Signature(result_layout(self.result_bits, lanes * masks))),
        }
        if registers is not None:
            ports["configuration"] = In(stream.Signature(registers.layout))
        ports |= {name: Out(signature) for name, signature in (memories or {}).items()}
        super().__init__(ports)

    @property
    @abstractmethod
    def result_bits(self) -> int:
        """Width of a result code."""

    @property
    def weight_bits(self) -> int:
        """Width of a result as `Spec.weights` gives it."""
        return self.result_bits

    def weight(self, m: Module, name: str, result: Value) -> Value:
        """Build `Spec.weights`: return the weight, unsigned, of a result code."""
        return result

    @abstractmethod
    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row of `length` scores to its last result.

        The unit is empty before, scores come in every cycle, and results are taken at once. A result that is offered
        in the cycle after its beat was taken counts 1.
        """

    @abstractmethod
    def interval(self, length: int) -> int:
        """Return the cycles from a row's first beat to that of the next, in a stream of rows of `length` scores."""

    def schedule(self, length: int) -> Schedule:
        """Return when a unit takes and gives rows of `length` scores; results leave a beat a cycle once they begin."""
        last, interval = self.latency(length), self.interval(length)
        return Schedule(last - (beats(length, self.lanes) - 1), last, interval, -(-last // interval))

    def waits(self, length: int, spacing: int) -> int:
        """Return the cycles from the last scores of a row of `length` to its first result, which is not held up.

        Args:
            length: scores of the row.
            spacing: cycles from a beat of scores to the next.
        """
        return self.schedule(length).first - (beats(length, self.lanes) - 1)

    @classmethod
    def verified_forms(
        cls, spec: Any, constants: Sequence[Constants], **sizes: Any
    ) -> Iterator[tuple[str, SoftmaxUnit, Sequence[Any]]]:
        """Yield the units of a spec that verification goes through: title, unit, and constants to run it with.

        With several sets of constants there are loadable units alone.

        Args:
            spec: the method.
            constants: of heads.
            sizes: of the unit, as for `Spec.unit`.
        """
        loadable = spec.unit(constants=None, **sizes)
        if loadable.registers is None:
            yield "", loadable, constants[:1]
            return
        if loadable.sets > 1:
            yield f"{loadable.sets} sets", loadable, loadable.loads(constants)
            return
        yield "loadable", loadable, constants
        yield "baked", spec.unit(constants=constants[0], **sizes), constants[:1]

    @property
    def sets(self) -> int:
        """How many sets of constants it holds."""
        return self.registers.sets if self.registers else 1

    @property
    def set_bits(self) -> int:
        """Width of the number of a set: 0 with one."""
        return self.registers.set_bits if self.registers else 0

    def loads(self, constants: Sequence[Constants]) -> Sequence[Any]:
        """Return what to load one after the other to try a unit with the constants of some heads.

        With several sets these are `Sets`, two or more, of the heads and, so that sets differ, of the spec's examples.
        """
        if self.sets == 1:
            return constants
        heads = list(dict.fromkeys([*constants, *self.spec.examples()]))
        starts = [*range(0, len(heads), self.sets), 1]
        return [Sets(tuple(heads[(start + i) % len(heads)] for i in range(self.sets))) for start in starts]

    def writes(self, constants: Constants | Sets) -> list[tuple[int, int]]:
        """Return the writes, `(address, data)`, that load constants through the port `configuration`.

        Those of one head go into the first set.

        Raises:
            ValueError: the unit's constants are baked in, it has fewer sets, or a value does not fit its register.
        """
        if self.registers is None:
            raise ValueError("this unit has no port to load constants through; build it without constants for that")
        heads = constants.heads if isinstance(constants, Sets) else (constants,)
        if len(heads) > self.sets:
            raise ValueError(f"this unit holds {self.sets} sets of constants, not {len(heads)}")
        for each in heads:
            check_constants(self.spec, each)
        return [
            write for number, each in enumerate(heads) for write in self.registers.writes(self.loaded(each), number)
        ]

    def loaded(self, constants: Any) -> dict[str, int | Sequence[int]]:
        """Return what the registers hold for some constants, by the names of `registers`."""
        raise NotImplementedError(f"{type(self).__name__} has a map of registers, and so has to say what they hold")

    def parts(self) -> list[Part]:
        """Return the parts that can be tried with all their inputs."""
        return []

    def positions_a_lane(self, constants: Any) -> int:
        """Return how many scores a lane takes with some constants: one, but for halves that work apart."""
        return 1

    def golden(self, codes: Array, mask: Array | None, constants: Constants | Sets, sets: Array | None = None) -> Array:
        """Return what the unit gives, from the spec.

        Args:
            codes: integers, (rows, keys).
            mask: boolean, of the same shape.
            constants: of one head, or `Sets`.
            sets: int64, (rows,): of `Sets`, the number of each row's; None for the first of all.
        """
        if not isinstance(constants, Sets):
            return self.spec.golden(codes, mask, constants)
        if sets is None:
            return self.spec.golden(codes, mask, constants.heads[0])
        golden = np.zeros(codes.shape, np.int64)
        for number, each in enumerate(constants.heads):
            own = sets == number
            golden[own] = self.spec.golden(codes[own], None if mask is None else mask[own], each)
        return golden


class DeferredUnit(TakesScores):
    """A streaming unit whose weights leave before their row is whole, equal to `spec.deferred` bit for bit.

    Args:
        spec: the method.
        lanes: positions a beat, which divide the width of a slice.
        max_row: scores of the longest row.
        storage: of what waits.
        weight_bits: width of a weight.
        rise_bits: width of what the sums before are shifted down by.
        factor: payload of `factors`: `factor` and `places`.
        scale_bits: width of what they are multiplied by; 0 where a shift is enough.

    Attributes:
        scores: stream in, of `score_layout`.
        weights: stream out: `codes`, a weight for each lane; `rise` and, if need be, `scale`, for what was summed
            before; and `last`.
        factors: stream out, one a row.
        least_places: that the places of a factor count from.
        scale_places: bits of the fraction of a scale.
        pace: cycles from one beat to the next, at least.
        gather: holds a slice until its maximum is known.
        depth: registers from scores to weights, those of a slice that waits not counted.
        slice_beats: beats of a slice.
        most_rows: rows that can be inside at once.
    """

    registers: RegisterMap | None = None
    memories: tuple[str, ...] = ()
    scale_places: int = 0
    pace: int = 1
    least_places: int
    gather: Gather
    depth: int
    slice_beats: int
    most_rows: int

    def __init__(
        self,
        spec: Spec,
        lanes: int,
        max_row: int,
        storage: str,
        weight_bits: int,
        rise_bits: int,
        factor: data.StructLayout,
        scale_bits: int = 0,
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        self.spec, self.lanes, self.max_row, self.storage, self.weight_bits = spec, lanes, max_row, storage, weight_bits
        scale = {"scale": scale_bits} if scale_bits else {}
        weights = {"codes": data.ArrayLayout(weight_bits, lanes), "rise": rise_bits, **scale, "last": 1}
        super().__init__(
            {
                "scores": In(stream.Signature(score_layout(self.code_shape, lanes))),
                "weights": Out(stream.Signature(data.StructLayout(weights))),
                "factors": Out(stream.Signature(factor)),
            }
        )

    def waits(self, count: int) -> int:
        """Return the cycles from the last of `count` beats of a slice to its first weights, which are not held up."""
        return self.depth + max(1, self.gather.buffer.latency - (count - 1))


def whole_slices(width: int, lanes: int) -> int:
    """Return the beats of a slice, for a unit that divides last.

    Raises:
        ValueError: it does not consist of whole beats.
    """
    if width % lanes:
        raise ValueError(f"with the division last, lanes divide a slice of {width} positions, not {lanes}")
    return width // lanes


def check_constants(spec: Spec, constants: Constants) -> None:
    """Refuse what are no constants of one head of a spec.

    Raises:
        TypeError: they are another method's.
        ValueError: they are of another form, or those of several heads.
    """
    spec.check_constants(constants)
    if constants.heads is not None:
        raise ValueError(
            f"a unit takes the constants of one head, not of {constants.heads}; constants.of_head(0) is the first"
        )
