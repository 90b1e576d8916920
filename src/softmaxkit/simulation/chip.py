"""A chip at work on a model: how engines share heads, what memory lets them do, and where they stall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.hardware import Hardware, HardwareError
from softmaxkit.simulation.queries import Queries
from softmaxkit.simulation.workload import Workload

Phase = Literal["prompt", "generation"]
"""All tokens of a context at once, or the next token after one."""

Loading = Literal["overlapped", "between", "streamed"]
"""How keys and values come into the buffers: those of the next head while this one's are in use; between heads; or in
tiles for every query, where those of a head do not fit."""


@dataclass(frozen=True)
class Run:
    """What a chip does for all layers of a model.

    Attributes:
        cycles: from the first byte to the last output.
        busy: cycles in which an engine that has most to do uses each of its arrays.
        unit: cycles that it waits for its unit to take a further query.
        drain: cycles that it waits for the last queries to leave: for their rows, the PV array, the end.
        memory: cycles that it waits for keys and values.
        engines_per_head: engines that share a head of keys.
        loading: how keys and values come.
        array_cycles: in which a QK array, and as long a PV array, of any engine is in use.
        scores: attended, of all heads.
        loaded_bytes: keys and values from memory.
        moved_bytes: all bytes from and to memory.
        multiplications: of attended scores, in both arrays.
    """

    cycles: float
    busy: float
    unit: float
    drain: float
    memory: float
    engines_per_head: int
    loading: Loading
    array_cycles: int
    scores: int
    loaded_bytes: int
    moved_bytes: int
    multiplications: int


def queries_of(workload: Workload, phase: Phase, context: int, chips: int = 1) -> Queries:
    """Return the queries of a head of keys, of which every chip has its share.

    Args:
        workload: the model.
        phase: a prompt of `context` tokens, or the token for which `context` keys are attended.
        context: tokens.
        chips: over which the keys are dealt out in turn; the queries are those of the chip with most keys.

    Raises:
        ValueError: a model that is not causal generates no tokens.
    """
    group, keys = workload.queries_per_key_head, -(-context // chips)
    if phase == "generation":
        if not workload.causal:
            raise ValueError(f"{workload.name} is not causal and generates no tokens; leave --generate out")
        return Queries(keys, 0, 1, group)
    if not workload.causal:
        return Queries(keys, 0, context, group)
    return Queries(1, 1, keys, group * min(chips, context))


def run(workload: Workload, hardware: Hardware, pace: Pace, queries: Queries) -> Run:
    """Return what a chip does, with its engines shared among heads as is fastest.

    Args:
        workload: the model.
        hardware: the chip.
        pace: of one of its engines.
        queries: of a head of keys; the last one attends to all keys that there are.

    Raises:
        HardwareError: a tile does not fit the buffers; the message has the key and what it takes.
    """
    sizes = pace.engine.sizes
    most = min(hardware.engines, len(queries))
    shares = [share for share in range(1, most + 1) if hardware.engines % share == 0]
    runs = [
        _run(workload, hardware, pace, queries, share, loading)
        for loading in _loadings(hardware, sizes.channels, sizes.rows, queries.last)
        for share in shares
    ]
    return min(runs, key=lambda each: each.cycles)


def _run(workload: Workload, hardware: Hardware, pace: Pace, queries: Queries, share: int, loading: Loading) -> Run:
    """Return the run in which so many engines work on each head of keys, whose keys come in this way."""
    keys = queries.last
    heads, layers = workload.key_heads, workload.layers
    together = hardware.engines // share
    rounds = -(-heads // together)
    own = queries.of_engine(share)
    # The caches hold the model's own channels; those that pad it to whole columns are no bytes.
    head_bytes = 2 * workload.channels * keys
    loaded = heads * (head_bytes if loading != "streamed" else 2 * workload.channels * own.keys)
    moved = loaded + 2 * workload.channels * heads * len(queries)  # queries come and outputs go
    begins, busy = pace.begins(own), pace.busy(own)
    # What is loaded goes through an engine's one port, a word a cycle, keys first and then values.
    port = rounds * 2 * (busy if loading == "streamed" else pace.words(keys))
    jobs = 1 if loading == "between" else rounds
    computed = rounds // jobs * pace.total(own, jobs)
    rate = hardware.bytes_per_cycle
    if loading == "between":
        load = max(pace.load(keys), min(together, heads) * head_bytes / rate)
        layer, filled = rounds * load + max(computed, (moved - loaded) / rate), 0.0
    elif not hardware.buffers.double:
        # Tiles take turns with queries.
        layer, filled = max(loaded / rate, port) + max(computed, (moved - loaded) / rate), 0.0
    else:
        layer = max(computed, moved / rate, port)
        beat = 2 * workload.channels * pace.engine.sizes.rows
        filled = min(together, heads) * (beat if loading == "streamed" else head_bytes) / rate
    cycles = layers * layer + filled
    return Run(
        cycles,
        layers * rounds * busy,
        layers * rounds * (begins - busy),
        layers * (computed - rounds * begins),
        cycles - layers * computed,
        share,
        loading,
        layers * heads * pace.busy(queries),
        layers * heads * queries.keys,
        layers * loaded,
        layers * moved,
        2 * layers * heads * queries.keys * workload.channels,
    )


def _loadings(hardware: Hardware, channels: int, rows: int, keys: int) -> list[Loading]:
    """Return how keys and values can come into the buffers of an engine.

    Raises:
        HardwareError: not even a beat of keys fits.
    """
    parts = 2 if hardware.buffers.double else 1
    for part, size in (("key", hardware.buffers.key_bytes), ("value", hardware.buffers.value_bytes)):
        beat = parts * rows * channels
        if size < beat:
            raise HardwareError(
                f"buffers.{part}_kib holds {'two tiles' if parts == 2 else 'a tile'} of arrays.rows keys of {channels} "
                f"channels at least, {beat / 1024:g} KiB, not {size / 1024:g}"
            )
    size = min(hardware.buffers.key_bytes, hardware.buffers.value_bytes)
    head = -(-keys // rows) * rows * channels
    if not hardware.buffers.double:
        return ["between"] if head <= size else ["streamed"]
    if parts * head <= size:
        return ["overlapped", "streamed"]
    return ["between", "streamed"] if head <= size else ["streamed"]
