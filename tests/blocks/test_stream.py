from __future__ import annotations

import pytest
from amaranth.hdl import signed

from softmaxkit.blocks.stream import beats, check_sizes, result_layout, score_layout


def test_sizes() -> None:
    for lanes, max_row in ((1, 1), (256, 65536), (3, 100)):
        check_sizes(lanes, max_row)
    for lanes in (0, -1, 257, 2.0, "4", None, True):
        with pytest.raises(ValueError, match="lanes is a whole number from 1 to 256, not"):
            check_sizes(lanes, 16)
    for max_row in (0, 65537, 16.0, False):
        with pytest.raises(ValueError, match="max_row is a whole number from 1 to 65536, not"):
            check_sizes(4, max_row)


def test_beats() -> None:
    assert [beats(length, 4) for length in (1, 3, 4, 5, 8, 9)] == [1, 1, 1, 2, 2, 3]
    assert beats(7, 1) == 7


def test_layouts() -> None:
    scores = score_layout(signed(5), 3, masks=2)
    assert {name: (field.offset, field.width) for name, field in scores} == {
        "codes": (0, 15),
        "mask": (15, 6),
        "last": (21, 1),
    }
    assert {name: (field.offset, field.width) for name, field in result_layout(9, 3)} == {
        "codes": (0, 27),
        "last": (27, 1),
    }
