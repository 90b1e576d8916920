"""Decoding over pages of a pool, relative to a cache in one piece: many sequences of different lengths, one query each.

In each round every contender runs once, in turn. Printed are the medians of the ratios, with quartiles, and of
milliseconds. In one piece, sequences are padded to the longest, and their lengths given as numbers. Of 8 bits, results
are compared first: pages and one piece give the same.
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
    """Return tokens, (sequences, heads, tokens, channels), in a pool whose pages come in any order, and their table."""
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
    """Return the duration of a call; of one thread its own time, without what others take of the machine."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="of the longest sequence; the others have fewer")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[16, 32, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random = torch.Generator().manual_seed(0)
    sequences, tokens = arguments.sequences, arguments.tokens
    lengths = torch.linspace(tokens / sequences, tokens, sequences).long()
    query, keys, values = (
        torch.randn(sequences, heads, count, arguments.channels, generator=random)
        for heads, count in ((arguments.heads, 1), (arguments.key_heads, tokens), (arguments.key_heads, tokens))
    )
    shape = f"{sequences} sequences of {int(lengths[0])} to {tokens} tokens, {arguments.heads} heads on"
    shape = f"{shape} {arguments.key_heads}, {arguments.channels} channels"
    print(f"{processor()['name']}, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}: {shape}")
    print("time over that of a cache in one piece (quartiles), milliseconds")
    for bits in BITS:
        whole = KeyValueCache(keys, values, bits)
        pools = {size: in_pages(keys, values, size, bits) for size in arguments.block_sizes}
        for name, spec, numbers in METHODS:

            def one_piece(spec: Spec = spec, numbers: dict[str, Any] = numbers, whole: Any = whole) -> Tensor:
                found: Tensor = whole.attention(query, spec, lengths=lengths, **numbers)
                return found

            def pages(size: int, spec: Spec = spec, numbers: Any = numbers, pools: Any = pools) -> Tensor:
                pool, tables = pools[size]
                found: Tensor = pool.attention(query, spec, tables, lengths, **numbers)
                return found

            expected = one_piece()
            if bits == 8 and not all(torch.equal(pages(size), expected) for size in pools):  # of 4, centres differ
                raise SystemExit("pages and one piece differ")
            rounds = [
                {0: seconds(one_piece), **{size: seconds(partial(pages, size)) for size in pools}}
                for _ in range(arguments.rounds + 1)
            ][1:]  # the first round warms up
            for size in rounds[0]:
                low, middle, high = statistics.quantiles((times[size] / times[0] for times in rounds), n=4)
                milliseconds = 1e3 * statistics.median(times[size] for times in rounds)
                what = f"pages of {size}" if size else "one piece"
                print(f"  {name:13} {bits} bits  {what:13} {middle:5.2f} ({low:.2f} to {high:.2f}) {milliseconds:8.2f}")


if __name__ == "__main__":
    main()
