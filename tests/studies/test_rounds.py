"""Rounds in which contenders take turns, and their figures."""

from __future__ import annotations

from functools import partial

from softmaxkit.studies.rounds import in_turn, quartile_ratios, quartiles


def test_contenders_take_turns_and_the_first_round_warms_up() -> None:
    called: list[str] = []
    done: list[tuple[int, int]] = []

    def run(name: str) -> int:
        called.append(name)
        return len(called)

    results = in_turn([partial(run, "a"), partial(run, "b")], 2, lambda *steps: done.append(steps))
    assert "".join(called) == "ababab"
    assert results == [[3, 5], [4, 6]]
    assert done == [(0, 2), (1, 2), (2, 2)]


def test_quartiles_are_those_of_the_rounds_themselves() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)
    assert quartile_ratios([2.0, 6.0], [2.0, 2.0]) == (1.5, 2.0, 2.5)
