"""Time per generated token of a small LLaMA with 8-bit and 4-bit caches, relative to transformers' default.

The default is a DynamicCache with torch's scaled_dot_product_attention. In each round every contender in turn generates
the same number of tokens after the same prompt. Prints the medians of the ratios with quartiles, and the bytes that
each cache stores per token. The model is untrained.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import softmaxkit
from softmaxkit import ConSmax, Exaq, QuantisedCache, Spec
from softmaxkit.kernels.codes import BITS
from softmaxkit.studies.machine import processor

METHODS: list[tuple[str, Spec, dict[str, Any]]] = [
    ("EXAQ, 2 bits", Exaq(bits=2), {"clip": -5.0}),
    ("ConSmax", ConSmax(), {}),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Contender:
    """A model and its cache, which contains the prompt."""

    model: PreTrainedModel
    cache: Any
    bytes_of: Callable[[Any], int]

    def read(self, prompt: Tensor) -> float:
        """Process a prompt, and return the bytes that the cache then stores per token."""
        self.model(prompt, past_key_values=self.cache, logits_to_keep=1)
        return self.bytes_of(self.cache) / prompt.numel()

    def seconds(self, tokens: int) -> float:
        """Return the time per generated token, and restore the cache."""
        token = torch.zeros(1, 1, dtype=torch.long)
        start = time.perf_counter()
        for _ in range(tokens):
            token = self.model(token, past_key_values=self.cache).logits.argmax(-1)
        elapsed = time.perf_counter() - start
        self.cache.crop(-tokens)
        return elapsed / tokens


def contenders(config: LlamaConfig, dtype: torch.dtype) -> dict[str, Contender]:
    """Return transformers' default first, then each method with a DynamicCache and with both quantised caches."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype).eval()  # type: ignore[arg-type, unused-ignore]
    model.set_attn_implementation("sdpa")
    by_name = {"sdpa": Contender(model, DynamicCache(config=config), plain_bytes)}
    for name, spec, parameters in METHODS:
        fused = softmaxkit.apply(copy.deepcopy(model), spec, mode="fused", **parameters)
        by_name[f"{name}, fused"] = Contender(fused, DynamicCache(config=config), plain_bytes)
        for bits in BITS:
            cache = QuantisedCache(config, bits)
            by_name[f"{name}, fused, {bits}-bit cache"] = Contender(fused, cache, lambda cache: cache.nbytes)
    return by_name


def plain_bytes(cache: DynamicCache) -> int:
    """Return the size of a DynamicCache in bytes."""
    return sum(int(keys.nbytes + values.nbytes) for keys, values, *_ in cache)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=4096, help="tokens in the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens generated per round")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds, after one that warms up; 2 or more")
    parser.add_argument("--layers", type=int, default=4, help="layers of the model")
    parser.add_argument("--heads", type=int, default=12, help="query heads, of 64 channels each")
    parser.add_argument("--key-heads", type=int, default=4, help="key heads; the query heads are a multiple of them")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="dtype of the model")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=64 * arguments.heads,
        intermediate_size=128 * arguments.heads,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.key_heads,
        max_position_embeddings=arguments.context + arguments.tokens,
    )
    prompt = torch.randint(0, 1000, (1, arguments.context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_name = contenders(config, DTYPES[arguments.dtype])
        token_bytes = {name: contender.read(prompt) for name, contender in by_name.items()}
        rounds = [
            {name: contender.seconds(arguments.tokens) for name, contender in by_name.items()}
            for _ in range(arguments.rounds + 1)
        ][1:]  # the first round warms up
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    print(f"{processor()['name']}, {threads}, {arguments.dtype}, {arguments.context} tokens of context")
    print("time per generated token over sdpa with a DynamicCache (quartiles), milliseconds, cached bytes per token")
    for name in by_name:
        low, middle, high = statistics.quantiles((times[name] / times["sdpa"] for times in rounds), n=4)
        milliseconds = 1e3 * statistics.median(times[name] for times in rounds)
        print(f"  {name:33} {middle:6.2f} ({low:.2f} to {high:.2f}) {milliseconds:8.2f} {token_bytes[name]:8.0f}")


if __name__ == "__main__":
    main()
