"""Instructions that the GPU kernels of decoding over codes issue, counted in their machine code for an H100 or H200.

Prints, for the main loop of ConSmax's kernels over keys and values of 128 channels, the thread instructions for each
byte of codes and steps, in one piece and in pages of 16 tokens, with one query per key head and with four. Kernels are
compiled by Triton for compute capability 9.0; no card has to be present.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import product
from typing import Any
from unittest import mock

import torch

from benchmark import Results, options, run
from softmaxkit import ConSmax
from softmaxkit.kernels import cards
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.codes import BITS, CHANNELS_OF_STEP, Cached, Paged
from softmaxkit.record import make_result
from softmaxkit.studies.card_decoding import PAGE

CAPABILITY = 90
CHANNELS, KEYS, KEY_HEADS = 128, 19 * PAGE, 2
SHARING = (1, 4)
"""Query heads that share a key head."""
CASES = [*product(SHARING, BITS, (0, PAGE))]
"""Query heads per key head, bits, and tokens of a page, 0 for one piece."""


def codes_of(bits: int, page: int) -> Cached:
    """Return codes of 0, in one piece or in pages of some tokens."""
    shape = (KEYS // page, KEY_HEADS, page) if page else (1, KEY_HEADS, KEYS)
    width, groups = (CHANNELS, 1) if bits == 8 else (CHANNELS // 2, CHANNELS // CHANNELS_OF_STEP)
    codes = torch.zeros(*shape, width, dtype=torch.int8 if bits == 8 else torch.uint8)
    steps = torch.zeros(*shape[:2], groups, shape[2], dtype=torch.float32 if bits == 8 else torch.bfloat16)
    if page:
        return Paged(codes, steps, CHANNELS, table=torch.zeros(1, KEYS // page, dtype=torch.int32), tokens=KEYS)
    return Cached(codes, steps, CHANNELS)


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Compile every case and count.

    Raises:
        ValueError: Triton is not installed, or is to interpret kernels.
    """
    if cards.is_interpreted():
        raise ValueError("the interpreter compiles nothing; unset TRITON_INTERPRET")
    if reason := cards.missing("triton"):
        raise ValueError(reason)
    from machine_code import compiling_for, main_loop
    from softmaxkit.kernels.triton import decode

    call = AttentionCall.by_exponential(torch.tensor(1.0), 1.0)
    results = []
    for sharing, bits, page in CASES:
        query = torch.zeros(1, KEY_HEADS * sharing, 1, CHANNELS, dtype=torch.bfloat16)
        codes, lengths = codes_of(bits, page), torch.ones(1, dtype=torch.int32) if page else None
        with mock.patch.object(decode, "on_device_of", nullcontext), compiling_for(CAPABILITY) as compiled:
            decode.attend(query, codes, codes, call, lengths=lengths)
        kernel, how = compiled[0], decode.SINGLE if sharing == 1 else decode.CACHED
        loop, threads = main_loop(kernel), 32 * how.warps
        token = 2 * (codes.codes.nbytes + codes.steps.nbytes) // (KEYS * KEY_HEADS)  # bytes of key and value
        figures = {
            "storage": f"{bits}-bit pages of {page}" if page else f"{bits}-bit cache",
            "bits": bits,
            "page": page or None,
            "query_heads_per_key_head": sharing,
            "kernel": kernel.name,
            "loop_instructions": loop,
            "threads": threads,
            "loop_bytes": how.columns * token,
            "instructions_per_byte": loop * threads / (how.columns * token),
            "registers": kernel.registers,
            "spilled_bytes": kernel.stack,
        }
        results.append(make_result(ConSmax(), "float", **figures))
    return {"compute_capability": CAPABILITY / 10, "channels": CHANNELS}, results


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    yield f"compute capability {record['inputs']['compute_capability']}, Triton {record['versions']['triton']}"
    yield "query heads per key head, storage: thread instructions per byte of codes and steps, registers, spilled bytes"
    for result in record["results"]:
        yield (
            f"  {result['query_heads_per_key_head']}  {result['storage']:18} {result['instructions_per_byte']:6.2f} "
            f"{result['registers']:6} {result['spilled_bytes']:4}"
        )


def main() -> None:
    """Print the table, and write the record."""
    run(options(__doc__), measure, lines)


if __name__ == "__main__":
    main()
