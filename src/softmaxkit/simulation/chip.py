"""A chip running a model: how engines share heads, the limits of memory bandwidth, and where the engines stall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.hardware import Hardware, HardwareError
from softmaxkit.simulation.queries import Queries
from softmaxkit.simulation.workload import Workload

Phase = Literal["prompt", "generation"]
"""All tokens of a context at once ("prompt"), or the next token after the context ("generation")."""

Loading = Literal["overlapped", "between", "streamed"]
"""How keys and values are loaded into the buffers: those of the next head while the current head's are in use; between
heads; or in tiles for every query, if those of a head do not fit."""


@dataclass(frozen=True)
class Run:
    """The cycles and traffic of a chip for all layers of a model.

    Attributes:
        cycles: from the first byte loaded to the last output.
        busy: cycles for which the busiest engine uses each of its arrays.
        unit: cycles for which it waits until its softmax unit accepts another query.
        drain: cycles for which it waits for the last queries to drain from the unit and the PV array.
        memory: cycles for which it waits for keys and values.
        engines_per_head: engines that share a key head.
        loading: how keys and values are loaded.
        array_cycles: cycles in use, summed over the QK arrays of all engines; equal for the PV arrays.
        scores: attended scores of all heads.
        loaded_bytes: bytes of keys and values read from memory.
        moved_bytes: all bytes read from and written to memory.
        multiplications: multiplications for attended scores, in both arrays.
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
    """Return the queries of one key head, restricted to one chip's share of the keys.

    Args:
        workload: the model.
        phase: a prompt of `context` tokens, or one token that attends to `context` keys.
        context: number of tokens.
        chips: chips over which the keys are distributed round-robin; the result is for the chip with the most keys.

    Raises:
        ValueError: generation with a model that is not causal.
    """
    group, keys = workload.queries_per_key_head, -(-context // chips)
    if phase == "generation":
        if not workload.causal:
            raise ValueError(f"{workload.name} is not causal, so it generates no tokens; omit --generate")
        return Queries(keys, 0, 1, group)
    if not workload.causal:
        return Queries(keys, 0, context, group)
    return Queries(1, 1, keys, group * min(chips, context))


def run(workload: Workload, hardware: Hardware, pace: Pace, queries: Queries) -> Run:
    """Return the run of a chip, with the fastest assignment of engines to heads and the fastest loading.

    Args:
        workload: the model.
        hardware: the chip.
        pace: the timing of one of its engines.
        queries: the queries of one key head; the last one attends to all keys.

    Raises:
        HardwareError: the buffers are too small for a tile; the message names the key and the minimum.
    """
    sizes = pace.engine.sizes
    shares = _shares(hardware.engines, min(hardware.engines, len(queries)))
    runs = [
        _run(workload, hardware, pace, queries, share, loading)
        for loading in _loadings(hardware, sizes.channels, sizes.rows, queries.last)
        for share in shares
    ]
    return min(runs, key=lambda candidate: candidate.cycles)


def _shares(engines: int, most: int) -> list[int]:
    """Return the numbers of engines, at most `most`, that may share a key head; surplus engines are idle.

    Of those that leave room for equally many heads at a time, these are the smallest and the largest, which is the
    fastest; so there are few even if there are many engines.
    """
    shares, share = set(), 1
    while share <= most:
        last = min(most, engines // (engines // share))
        shares |= {share, last}
        share = last + 1
    return sorted(shares)


def _run(workload: Workload, hardware: Hardware, pace: Pace, queries: Queries, share: int, loading: Loading) -> Run:
    """Return the run in which `share` engines work on each key head, with keys and values loaded by `loading`."""
    keys = queries.last
    heads, layers = workload.key_heads, workload.layers
    together = hardware.engines // share
    rounds = -(-heads // together)
    own = queries.of_engine(share)
    # Caches store the model's own channels only, not those that pad them to whole columns.
    head_bytes = 2 * workload.channels * keys
    loaded = heads * (head_bytes if loading != "streamed" else 2 * workload.channels * own.keys)
    moved = loaded + 2 * workload.channels * heads * len(queries)  # queries come and outputs go
    begins, busy = pace.begins(own), pace.busy(own)
    # Loads pass through the engine's single port, one word per cycle, keys before values.
    port = rounds * 2 * (busy if loading == "streamed" else pace.words(keys))
    jobs = 1 if loading == "between" else rounds
    computed = rounds // jobs * pace.total(own, jobs)
    rate = hardware.bytes_per_cycle
    if loading == "between":
        load = max(pace.load(keys), min(together, heads) * head_bytes / rate)
        layer, filled = rounds * load + max(computed, (moved - loaded) / rate), 0.0
    elif not hardware.buffers.double:
        # With single buffers, loading a tile alternates with computing on it.
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
    """Return the possible ways to load keys and values into the buffers of an engine.

    Raises:
        HardwareError: the buffers are too small for a single beat of keys.
    """
    parts = 2 if hardware.buffers.double else 1
    for part, size in (("key", hardware.buffers.key_bytes), ("value", hardware.buffers.value_bytes)):
        beat = parts * rows * channels
        if size < beat:
            raise HardwareError(
                f"buffers.{part}_kib must have room for {'two tiles' if parts == 2 else 'a tile'} of arrays.rows keys "
                f"of {channels} channels, at least {beat / 1024:g} KiB, got {size / 1024:g}"
            )
    size = min(hardware.buffers.key_bytes, hardware.buffers.value_bytes)
    head = -(-keys // rows) * rows * channels
    if not hardware.buffers.double:
        return ["between"] if head <= size else ["streamed"]
    if parts * head <= size:
        return ["overlapped", "streamed"]
    return ["between", "streamed"] if head <= size else ["streamed"]
