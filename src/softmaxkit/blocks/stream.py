"""The row streams at the input and output of every unit.

A row is sent as one or more *beats* of `lanes` positions, with `last` on the final one. The mask bit is 0 for masked
positions and for positions beyond the end of the row in its last beat. Results have the same layout, one per position,
and are 0 where masked. Valid and ready follow `amaranth.lib.stream`: a beat transfers when both are high, and an
offered beat must not change until it has transferred.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Shape
from amaranth.lib import data


def score_layout(code: Shape, lanes: int, masks: int = 1, set_bits: int = 0) -> data.StructLayout:
    """Return the payload of a beat of scores: `codes` from lane 0 up, `mask` (1: attend), `last`, optionally `set`.

    Args:
        code: shape of a score code.
        lanes: positions per beat.
        masks: mask bits per lane; more than one if a lane can carry several narrow scores.
        set_bits: width of the row's set number, the same in all of its beats; 0 for none.
    """
    fields = {"codes": data.ArrayLayout(code, lanes), "mask": lanes * masks, "last": 1}
    return data.StructLayout({**fields, **set_field(set_bits)})


def set_field(set_bits: int) -> dict[str, int]:
    """Return the payload field `set` of that width; nothing for width 0."""
    return {"set": set_bits} if set_bits else {}


def result_layout(bits: int, lanes: int) -> data.StructLayout:
    """Return the payload of a beat of results: `codes` of `bits` each from lane 0 up, and `last`."""
    return data.StructLayout({"codes": data.ArrayLayout(bits, lanes), "last": 1})


def check_sizes(lanes: int, max_row: int) -> None:
    """Check the number of lanes and the length of the longest row.

    Raises:
        ValueError: lanes are not from 1 to 256, or the longest row is not from 1 to 65536 scores.
    """
    for name, value, most in (("lanes", lanes, 256), ("max_row", max_row, 1 << 16)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is a whole number from 1 to {most}, not {value!r}")


def beats(length: int, lanes: int) -> int:
    """Return the number of beats of a row of `length` scores."""
    return -(-length // lanes)


class Slices(NamedTuple):
    """How slices of consecutive positions map to beats.

    Attributes:
        a_beat: slices per beat; 1 if a slice spans several beats.
        beats: beats per slice; 1 if a beat holds one or more whole slices.
    """

    a_beat: int
    beats: int


def slices(width: int, lanes: int) -> Slices:
    """Map slices of `width` positions to beats of `lanes`.

    Raises:
        ValueError: neither divides the other.
    """
    if width % lanes and lanes % width:
        raise ValueError(f"with slices of {width} positions, lanes divide {width} or are a multiple of it, not {lanes}")
    return Slices(max(lanes // width, 1), max(width // lanes, 1))
