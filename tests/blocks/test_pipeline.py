from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bench import clocked

from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named, resized

CUTS = ("second", "first", "third")
"""Out of order: the most useful first."""


class Pair(NamedTuple):
    low: Value
    high: Value


class Chain(wiring.Component):
    """Adds 1 after each cut, to a state that nests every container; counts beats in the highest bits of its results.

    Args:
        depth: of the pipeline.
        mutant: "no hold" (the stages advance while the output is stalled).
    """

    def __init__(self, depth: int, mutant: str = "") -> None:
        self.depth, self.mutant = depth, mutant
        super().__init__({"scores": In(stream.Signature(8)), "results": Out(stream.Signature(16)), "busy": Out(1)})
        self.held: list[Value] = []
        self.fired: list[Value] = []

    def elaborate(self, platform: object) -> Module:
        m = Module()
        payload = self.scores.payload
        pipe = Pipeline(m, "stage", self.scores.valid, self.results, choose_cuts(CUTS, self.depth, 2))
        state: Any = {"pair": Pair(payload[:4], payload[4:]), "nest": [(Const(1, 2), Signal(0)), payload.as_signed()]}
        for name in ("first", "second", "third"):
            fire = named(m, f"{name}_fire", pipe.fire)
            after = pipe.cut(name, state)
            if name in pipe.registers:
                assert isinstance(after["nest"][0][0], Const)
                assert after["nest"][1].shape().signed
                self.held.append(Cat(*after["pair"], after["nest"][1]))
                self.fired.append(fire)
            else:
                assert after is state
            pair = after["pair"]
            state = after | {"pair": pair._replace(low=named(m, f"{name}_low", pair.low + after["nest"][0][0])[:4])}
        count = Signal(4)
        with m.If(pipe.fire):
            m.d.sync += count.eq(count + 1)
        pipe.finish(Cat(*state["pair"], resized(state["nest"][1].as_unsigned(), 4)), count)
        if self.mutant == "no hold":
            m.d.comb += pipe.advance.eq(1)
        m.d.comb += [self.scores.ready.eq(pipe.advance), self.busy.eq(pipe.busy)]
        return m


def run(chain: Chain, beats: list[int], valid: float, ready: float) -> list[int]:
    """Check that beats pass correctly; return how many cycles each took."""
    rng, fresh = random.Random(0), object()
    inside: list[tuple[int, int]] = []
    delays: list[int] = []
    waiting, offered = None, False
    before: list[Any] = [fresh] * (chain.depth - 1)

    def cycle(at: int, context: Any) -> bool:
        nonlocal waiting, before, offered
        offered = bool(beats) and (offered or rng.random() < valid)
        context.set(chain.scores.valid, offered)
        if offered:
            context.set(chain.scores.payload, beats[0])
        context.set(chain.results.ready, taking := rng.random() < ready)
        assert context.get(chain.busy) == bool(inside)
        held = [context.get(state) for state in chain.held]
        assert all(old is fresh or old == new for old, new in zip(before, held, strict=True)), "a bubble's data moved"
        before = [fresh if context.get(fire) else value for fire, value in zip(chain.fired, held, strict=True)]
        given = context.get(chain.results.payload) if context.get(chain.results.valid) else None
        assert waiting in (None, given), "a waiting result changed"
        waiting = None
        if given is not None and not taking:
            waiting = given
        elif given is not None:
            number, since = inside.pop(0)
            low, high = number % 16, number // 16
            assert given == ((low + 3) % 16) | high << 4 | low << 8 | ((len(delays) + 1) % 16) << 12
            delays.append(at - since)
        if offered and context.get(chain.scores.ready):
            inside.append((beats.pop(0), at))
            offered = False
        return bool(beats or inside)

    clocked(chain, cycle)
    return delays


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_beats_take_as_many_cycles_as_there_are_registers(depth: int) -> None:
    beats = random.Random(depth).choices(range(256), k=60)
    assert run(Chain(depth), beats[:], 1, 1) == [depth] * 60
    assert min(run(Chain(depth), beats[:], 0.5, 0.5)) == depth
    assert max(run(Chain(depth), beats[:], 0.9, 0.1)) > depth


def test_stages_that_do_not_hold_are_noticed() -> None:
    with pytest.raises(AssertionError):
        run(Chain(3, "no hold"), list(range(100)), 0.9, 0.3)


def test_choice_of_cuts() -> None:
    assert choose_cuts(CUTS, None, 2) == {"second"}
    assert [choose_cuts(CUTS, depth, 2) for depth in (1, 3, 4)] == [set(), {"second", "first"}, set(CUTS)]
    assert [choose_cuts(CUTS, depth, 3, fixed=3) for depth in (3, 4)] == [set(), {"second"}]
    for depth in (0, 5, -1, 2.0, "2", True):
        with pytest.raises(ValueError, match=f"depth is a whole number from 1 to 4 for this unit, not {depth!r}"):
            choose_cuts(CUTS, depth, 2)
    with pytest.raises(ValueError, match="depth is a whole number from 3 to 6 for this unit, not 2"):
        choose_cuts(CUTS, 2, 3, fixed=3)
