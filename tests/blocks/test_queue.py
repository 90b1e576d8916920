from __future__ import annotations

import random
from typing import Any

import pytest
from bench import clocked

from softmaxkit.blocks.queue import Queue


@pytest.mark.parametrize("places", [1, 2, 3, 5])
@pytest.mark.parametrize(("offers", "takes"), [(1, 1), (1, 0.4), (0.4, 1), (0.6, 0.6)])
def test_words_come_out_in_order(places: int, offers: float, takes: float) -> None:
    rng, queue = random.Random(0), Queue(8, places)
    sent: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    word, offered, most = 0, False, 0

    def cycle(at: int, context: Any) -> bool:
        nonlocal word, offered, most
        if not offered:
            word, offered = rng.randrange(256), rng.random() < offers
        context.set(queue.source.valid, offered)
        context.set(queue.source.payload, word)
        context.set(queue.sink.ready, rng.random() < takes)
        assert context.get(queue.sink.valid) == (len(sent) > len(got))
        assert context.get(queue.source.ready) == (len(sent) - len(got) < places)
        if context.get(queue.sink.valid) and context.get(queue.sink.ready):
            got.append((at, context.get(queue.sink.payload)))
        if offered and context.get(queue.source.ready):
            sent.append((at, word))
            offered = False
        most = max(most, len(sent) - len(got))
        return len(got) < 100

    clocked(queue, cycle)
    assert [word for _, word in got] == [word for _, word in sent[: len(got)]]
    assert most == places or takes == 1
    if offers == takes == 1:
        assert got[-1][0] == (100 if places > 1 else 199)
