"""Tile sizes and pipelining of the attention kernels, by card, dtype and channels."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Blocks(NamedTuple):
    """Tile sizes and pipelining of a program.

    Attributes:
        rows: queries.
        columns: keys.
        warps: per program, of 32 threads each.
        stages: tiles in flight at once.
    """

    rows: int
    columns: int
    warps: int
    stages: int


Table = dict[int, dict[int, Blocks]]
"""Blocks by bytes per element, then by the largest number of channels that they serve."""


class Plan(NamedTuple):
    """The blocks of the three kernels.

    Attributes:
        forward: forward kernel without levels.
        levels: forward kernel with levels, whose maxima and sums take registers.
        queries: backward kernel for queries.
        keys: backward kernel for keys and values.
    """

    forward: Table
    levels: Table
    queries: Table
    keys: Table


FORWARD: Table = {
    2: {64: Blocks(128, 64, 4, 3), 128: Blocks(128, 64, 8, 2), 256: Blocks(64, 32, 8, 2)},
    4: {64: Blocks(64, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 32, 4, 2)},
}
WIDE_LEVELS = {64: Blocks(32, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 16, 4, 2)}
ANY_CARD = Plan(
    forward=FORWARD,
    levels={2: FORWARD[2], 4: WIDE_LEVELS},
    queries={
        2: {64: Blocks(64, 64, 4, 2), 128: Blocks(64, 32, 8, 2), 256: Blocks(32, 32, 8, 1)},
        4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
    },
    keys={
        2: {64: Blocks(64, 64, 4, 2), 128: Blocks(32, 64, 8, 2), 256: Blocks(32, 32, 8, 1)},
        4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
    },
)
"""For any card of compute capability 8.0 or later; tests/gpu/test_compiled_kernels.py has the registers and shared
memory that they use."""
ROOMY_CARD = Plan(
    forward={
        2: {64: Blocks(64, 64, 4, 3), 128: Blocks(128, 64, 8, 3), 256: Blocks(64, 64, 8, 2)},
        4: FORWARD[4],
    },
    levels={
        2: {64: Blocks(64, 64, 4, 3), 128: Blocks(128, 128, 8, 3), 256: Blocks(64, 64, 8, 2)},
        4: WIDE_LEVELS,
    },
    queries={
        2: {64: Blocks(64, 32, 4, 3), 128: Blocks(128, 64, 8, 3), 256: Blocks(32, 32, 8, 1)},
        4: ANY_CARD.queries[4],
    },
    keys={
        2: {64: Blocks(32, 64, 4, 3), 128: Blocks(64, 64, 4, 2), 256: Blocks(32, 32, 8, 1)},
        4: ANY_CARD.keys[4],
    },
)
"""For cards with `ROOM`, such as Hopper; each entry was the fastest of a dozen on an H200."""
ROOM = 200 * 1024
"""Bytes of shared memory per block from which `ROOMY_CARD` applies."""


def plan_for(device: torch.device) -> Plan:
    """Return the blocks for a device."""
    return ROOMY_CARD if shared_memory(device) >= ROOM else ANY_CARD


def forward_table(device: torch.device, form: str, is_plain: bool) -> Table:
    """Return the blocks of the forward kernel; with a mask or dropout (not plain), those for any card."""
    plan = plan_for(device) if is_plain else ANY_CARD
    return plan.levels if form == "levels" else plan.forward


def blocks_for(table: Table, dtype: torch.dtype, channels: int) -> Blocks:
    """Return the blocks for a dtype and a number of channels, the larger of queries' and values'."""
    return next(blocks for most, blocks in table[dtype.itemsize].items() if channels <= most)


def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory available to a block; 0 for the interpreter, which has no limit."""
    if device.type != "cuda":
        return 0
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))
