"""Decoding over a paged cache, relative to a contiguous one: sequences of different lengths with one query each.

In each round every contender in turn runs once. Prints the medians of the ratios with quartiles, and the median
milliseconds. The contiguous cache pads sequences to the longest and receives their lengths. With 8 bits, the results of
both are first checked to be equal.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark import Results, count, machine, machine_line, options, run, timed
from softmaxkit import ConSmax, Exaq, KeyValueCache, PagedKeyValueCache, Spec
from softmaxkit.cli.console import name_of
from softmaxkit.kernels.codes import BITS
from softmaxkit.record import make_result

METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exaq(bits=2), {"clip": -5.0}),
    (ConSmax(), {"beta": 7.0, "gamma": 1.0}),
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


def seconds(call: Callable[[], Any]) -> float:
    """Return the duration of a call in seconds: CPU time of the thread if there is one, otherwise wall time."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Time every method over both caches in every round.

    Raises:
        ValueError: the caches cannot have these sizes.
        RuntimeError: the results of the caches differ.
    """
    random = torch.Generator().manual_seed(0)
    sequences, tokens = arguments.sequences, arguments.tokens
    if tokens < sequences:
        raise ValueError(
            f"--tokens must be at least --sequences, whose lengths rise to it evenly, got {tokens} and {sequences}"
        )
    lengths = torch.linspace(tokens / sequences, tokens, sequences).long()
    query, keys, values = (
        torch.randn(sequences, heads, tokens_of, arguments.channels, generator=random)
        for heads, tokens_of in ((arguments.heads, 1), (arguments.key_heads, tokens), (arguments.key_heads, tokens))
    )
    results = []
    for bits in BITS:
        contiguous = KeyValueCache(keys, values, bits)
        pools = {size: in_pages(keys, values, size, bits) for size in arguments.block_sizes}
        for spec, parameters in METHODS:
            calls = {"contiguous": partial(contiguous.attention, query, spec, lengths=lengths, **parameters)}
            for size, (pool, table) in pools.items():
                calls[f"{size}"] = partial(pool.attention, query, spec, table, lengths, **parameters)
            expected = calls["contiguous"]()
            # With 4 bits the caches subtract different centres, so results differ by rounding.
            if bits == 8 and not all(torch.equal(call(), expected) for call in calls.values()):
                raise RuntimeError("the results of paged and contiguous caches differ")
            runs = {name: partial(seconds, call) for name, call in calls.items()}
            figures = timed(runs, arguments, f"{spec.name}, {bits} bits")
            for size, own in zip((None, *pools), figures.values(), strict=True):
                storage = f"{bits}-bit cache" if size is None else f"{bits}-bit pages of {size}"
                results.append(make_result(spec, "float", storage=storage, bits=bits, page=size, **own))
    shape = ("sequences", "tokens", "heads", "key_heads", "channels")
    inputs = {name: getattr(arguments, name) for name in shape}
    return inputs | {"shortest": int(lengths[0])} | machine(arguments), results


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    inputs = record["inputs"]
    yield (
        f"{machine_line(record)}: "
        f"{inputs['sequences']} sequences of {inputs['shortest']} to {inputs['tokens']} tokens, "
        f"{inputs['heads']} query heads, {inputs['key_heads']} key heads, {inputs['channels']} channels"
    )
    yield "time over that of a contiguous cache (quartiles), milliseconds"
    for result in record["results"]:
        low, high = result["time_over_contiguous_low"], result["time_over_contiguous_high"]
        yield (
            f"  {name_of(result, 'storage'):42} {result['time_over_contiguous']:5.2f} ({low:.2f} to {high:.2f}) "
            f"{1e3 * result['seconds']:8.2f}"
        )


def main() -> None:
    """Print the table, and write the record."""
    parser = options(__doc__, rounds=15)
    parser.add_argument("--sequences", type=count, default=8, help="sequences in the batch (default: 8)")
    parser.add_argument(
        "--tokens", type=count, default=4096, help="tokens of the longest sequence; others have fewer (default: 4096)"
    )
    parser.add_argument("--heads", type=count, default=32, help="query heads (default: 32)")
    parser.add_argument(
        "--key-heads", type=count, default=8, help="key heads; the query heads are a multiple of them (default: 8)"
    )
    parser.add_argument("--channels", type=count, default=128, help="channels of a head (default: 128)")
    parser.add_argument(
        "--block-sizes", type=count, nargs="+", default=[16, 32, 128], help="tokens per page (default: 16 32 128)"
    )
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
