"""Base class of the hardware units: their interface, their cycle counts, and what they are verified against."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from amaranth.hdl import Module, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.blocks.parts import Part
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import beats, check_sizes, result_layout, score_layout
from softmaxkit.formats import Array
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.methods.base.loading import LoadsConstants, check_constants
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.base.takes_scores import TakesScores


class Schedule(NamedTuple):
    """Timing of a row in a unit, in cycles from its first input beat.

    Attributes:
        first: cycle of the first result.
        last: cycle of the last result.
        interval: cycles from the first beat of a row to that of the next, in a stream of such rows.
        rows_held: maximum number of rows in flight, if one enters every `interval` cycles; the row whose results are
            leaving counts. A faster source fills the unit's buffers with more rows before backpressure stops it.
    """

    first: int
    last: int
    interval: int
    rows_held: int


class SoftmaxUnit(TakesScores, LoadsConstants):
    """A streaming unit: rows of score codes in, rows of results out, equal to `spec.golden` bit for bit.

    Each method has one subclass, called `Unit`, in its unit.py. Its constructor takes `(spec, lanes, constants,
    max_row, depth, storage)`.

    Args:
        spec: the spec.
        lanes: positions per beat.
        constants: constants to bake in; None if they are loaded through the port `configuration`, or there are none.
        max_row: number of scores in the longest row.
        storage: storage of waiting rows and of loadable tables, see `softmaxkit.blocks.storage`.
        registers: register map of the port `configuration`, if there is one.
        memories: signatures of the memory ports, by name, where `storage` is "memory".
        masks: mask bits and results per lane.

    Attributes:
        scores: input stream of `score_layout`; with several sets of constants, each row carries the index of its set.
        results: output stream of `result_layout`.
        takes_sets: whether the argument `sets` (several sets of loadable constants) is supported.
        holds_rows: whether rows wait inside, so that a row of more than `max_row` scores may block the unit or give
            wrong results.
        whole_rows: whether every row must have exactly `max_row` scores.
        depth: pipeline registers from scores to results, excluding buffers.
        configuration: input stream of `registers.layout`.

    Raises:
        ValueError: the sizes cannot be built, or the constants are those of several heads.
        TypeError: the constants belong to another method.
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
        """Width of a result code in bits."""

    @property
    def weight_bits(self) -> int:
        """Width of a weight, as returned by `Spec.weights`, in bits."""
        return self.result_bits

    def weight(self, m: Module, name: str, result: Value) -> Value:
        """Build the logic of `Spec.weights`; return the unsigned weight of a result code."""
        return result

    @abstractmethod
    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row of `length` scores to its last result.

        The unit starts empty, a beat of scores arrives every cycle, and results are accepted at once. A result offered
        in the cycle after its beat was accepted counts as 1.
        """

    @abstractmethod
    def interval(self, length: int) -> int:
        """Return the cycles between the first beats of successive rows, in a stream of rows of `length` scores."""

    def schedule(self, length: int) -> Schedule:
        """Return the timing of rows of `length` scores; once results start, one beat leaves per cycle."""
        last, interval = self.latency(length), self.interval(length)
        return Schedule(last - (beats(length, self.lanes) - 1), last, interval, -(-last // interval))

    def delay(self, length: int, spacing: int) -> int:
        """Return the cycles from the last scores of a row to its first result, without backpressure on the results.

        Args:
            length: number of scores in the row.
            spacing: cycles from one beat of scores to the next.
        """
        return self.schedule(length).first - (beats(length, self.lanes) - 1)

    @classmethod
    def verified_forms(
        cls, spec: Any, constants: Sequence[Constants], **sizes: Any
    ) -> Iterator[tuple[str, SoftmaxUnit, Sequence[Any]]]:
        """Yield the units of a spec to verify, as (title, unit, constants to run it with).

        With several sets of constants, only the loadable unit is yielded.

        Args:
            spec: the spec.
            constants: constants of one or more heads.
            sizes: arguments of `Spec.unit`.
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

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        return []

    def positions_a_lane(self, constants: Any) -> int:
        """Return how many scores one lane accepts per beat: 1, unless its halves work separately."""
        return 1

    def golden(self, codes: Array, mask: Array | None, constants: Constants | Sets, sets: Array | None = None) -> Array:
        """Compute the expected results of the unit from the spec.

        Args:
            codes: score codes, integers (rows, keys).
            mask: boolean, same shape; None attends to all.
            constants: constants of one head, or `Sets`.
            sets: int64 (rows,): index into `Sets` for each row; None uses the first set.
        """
        if not isinstance(constants, Sets):
            return self.spec.golden(codes, mask, constants)
        if sets is None:
            return self.spec.golden(codes, mask, constants.heads[0])
        golden = np.zeros(codes.shape, np.int64)
        for index, head in enumerate(constants.heads):
            own = sets == index
            golden[own] = self.spec.golden(codes[own], None if mask is None else mask[own], head)
        return golden
