"""Base class of the hardware units that divide after the weighted sum."""

from __future__ import annotations

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.storage import check_storage
from softmaxkit.blocks.stream import check_sizes, score_layout
from softmaxkit.methods.base.spec import Spec
from softmaxkit.methods.base.takes_scores import TakesScores


class DeferredUnit(TakesScores):
    """A streaming unit whose weights leave before their row is complete, equal to `spec.deferred` bit for bit.

    Args:
        spec: the spec.
        lanes: positions per beat; must divide the width of a slice.
        max_row: number of scores in the longest row.
        storage: storage of waiting slices.
        weight_bits: width of a weight.
        rise_bits: width of the shift of the previous sums.
        factor: payload of `factors`: `factor` and `places`.
        scale_bits: width of the multiplier of the previous sums; 0 where a shift suffices.

    Attributes:
        scores: input stream of `score_layout`.
        weights: output stream: `codes`, one weight per lane; `rise` and, if `scale_bits` is not 0, `scale`, which
            rescale the previous sums; and `last`.
        factors: output stream, one factor per row.
        least_places: offset that is added to the `places` of a factor.
        scale_places: number of fraction bits of a scale.
        pace: minimum number of cycles from one beat to the next.
        gather: holds a slice until its maximum is known.
        depth: registers from scores to weights, excluding those of a waiting slice.
        slice_beats: number of beats in a slice.
        max_rows_inside: maximum number of rows in flight.
    """

    registers: RegisterMap | None = None
    memories: tuple[str, ...] = ()
    scale_places: int = 0
    pace: int = 1
    least_places: int
    gather: Gather
    depth: int
    slice_beats: int
    max_rows_inside: int

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

    def delay(self, count: int) -> int:
        """Return the cycles from the last of `count` beats of a slice to its first weights, without backpressure."""
        return self.depth + max(1, self.gather.buffer.latency - (count - 1))


def whole_slices(width: int, lanes: int) -> int:
    """Return the number of beats in a slice, for a unit with deferred division.

    Raises:
        ValueError: the slice is not a whole number of beats.
    """
    if width % lanes:
        raise ValueError(
            f"with the division after the weighted sum, lanes must divide a slice of {width} positions, got {lanes}"
        )
    return width // lanes
