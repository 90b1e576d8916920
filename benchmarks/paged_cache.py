"""Decoding over a paged cache, relative to a contiguous one: sequences of different lengths with one query each.

In each round every contender in turn runs once. Prints the medians of the ratios with quartiles, and the median
milliseconds. The contiguous cache pads sequences to the longest and receives their lengths. With 8 bits, the results of
both are first checked to be equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softmaxkit import ConSmax, Exaq, KeyValueCache, PagedKeyValueCache, Spec
from softmaxkit.kernels.codes import BITS
from softmaxkit.studies.machine import processor

METHODS: list[tuple[str, Spec, dict[str, Any]]] = [
    ("EXAQ, 2 bits", Exaq(bits=2), {"clip": -5.0}),
    ("ConSmax", ConSmax(), {"beta": 7.0, "gamma": 1.0}),
]


def in_pages(keys: Tensor, values: Tensor, block_size: int, bits: int) -> tuple[PagedKeyValueCache, Tensor]:
    """Store tokens in a pool with randomly ordered pages.

    Args:
        keys: (sequences, key heads, tokens, channels).
        values: (sequences, key heads, tokens, value channels).
        block_size: tokens per page.
        bits: of the codes.

    Returns:
        The pool, and the page table, int32, (sequences, pages per sequence).
    """
    sequences, heads, tokens, channels = keys.shape
    pages = -(-tokens // block_size)
    tables = torch.randperm(sequences * pages, generator=torch.Generator().manual_seed(0)).view(sequences, pages)
    pool = PagedKeyValueCache(sequences * pages, block_size, heads, channels, values.shape[3], bits, keys.dtype)
    places = torch.arange(tokens)
    for row in range(sequences):
        slots = tables[row, places // block_size] * block_size + places % block_size
        pool.reshape_and_cache(keys[row].transpose(0, 1), values[row].transpose(0, 1), slots)
    return pool, tables.int()


def seconds(run: Callable[[], Any]) -> float:
    """Return the duration of a call in seconds: CPU time of the thread if there is one, otherwise wall time."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=8, help="sequences in the batch")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the longest sequence; others have fewer")
    parser.add_argument("--heads", type=int, default=32, help="query heads")
    parser.add_argument("--key-heads", type=int, default=8, help="key heads; the query heads are a multiple of them")
    parser.add_argument("--channels", type=int, default=128, help="channels of a head")
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[16, 32, 128], help="tokens per page")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, after one that warms up; 2 or more")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random = torch.Generator().manual_seed(0)
    sequences, tokens = arguments.sequences, arguments.tokens
    lengths = torch.linspace(tokens / sequences, tokens, sequences).long()
    query, keys, values = (
        torch.randn(sequences, heads, count, arguments.channels, generator=random)
        for heads, count in ((arguments.heads, 1), (arguments.key_heads, tokens), (arguments.key_heads, tokens))
    )
    shape = f"{sequences} sequences of {int(lengths[0])} to {tokens} tokens, {arguments.heads} query heads,"
    shape = f"{shape} {arguments.key_heads} key heads, {arguments.channels} channels"
    print(f"{processor()['name']}, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}: {shape}")
    print("time over that of a contiguous cache (quartiles), milliseconds")
    for bits in BITS:
        contiguous = KeyValueCache(keys, values, bits)
        pools = {size: in_pages(keys, values, size, bits) for size in arguments.block_sizes}
        for name, spec, parameters in METHODS:
            calls: dict[int, Callable[[], Tensor]] = {
                0: partial(contiguous.attention, query, spec, lengths=lengths, **parameters)
            }
            for size, (pool, table) in pools.items():
                calls[size] = partial(pool.attention, query, spec, table, lengths, **parameters)
            expected = calls[0]()
            # With 4 bits the caches subtract different centres, so results differ by rounding.
            if bits == 8 and not all(torch.equal(call(), expected) for call in calls.values()):
                raise SystemExit("the results of paged and contiguous caches differ")
            rounds = [{size: seconds(call) for size, call in calls.items()} for _ in range(arguments.rounds + 1)][
                1:
            ]  # the first round warms up
            for size in rounds[0]:
                low, middle, high = statistics.quantiles((times[size] / times[0] for times in rounds), n=4)
                milliseconds = 1e3 * statistics.median(times[size] for times in rounds)
                layout = f"pages of {size}" if size else "contiguous"
                print(
                    f"  {name:13} {bits} bits  {layout:13} {middle:5.2f} ({low:.2f} to {high:.2f}) {milliseconds:8.2f}"
                )


if __name__ == "__main__":
    main()
