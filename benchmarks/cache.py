"""Time per generated token of a small LLaMA with 8-bit and 4-bit caches, relative to transformers' default.

The default is a DynamicCache with torch's scaled_dot_product_attention. In each round every contender in turn generates
the same number of tokens after the same prompt. Prints the medians of the ratios with quartiles, and the bytes that
each cache stores per token. The model is untrained.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import softmaxkit
from benchmark import Results, count, machine, machine_line, options, run, timed
from softmaxkit import ConSmax, Exaq, QuantisedCache, Spec
from softmaxkit.cli.console import name_of
from softmaxkit.kernels.codes import BITS
from softmaxkit.record import make_result

METHODS: list[tuple[Spec, dict[str, Any]]] = [(Exaq(bits=2), {"clip": -5.0}), (ConSmax(), {})]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEAD = 64
"""Channels of a head."""


@dataclass
class Contender:
    """A model and its cache, which contains the prompt.

    Attributes:
        result: what it is, for the record.
        model: the model, with its attention.
        cache: the cache.
        bytes_of: returns the size of the cache.
    """

    result: dict[str, Any]
    model: PreTrainedModel
    cache: Any
    bytes_of: Callable[[Any], int]

    def read(self, prompt: Tensor) -> None:
        """Process a prompt, and note the bytes that the cache then stores per token."""
        self.model(prompt, cache=self.cache, logits_to_keep=1)
        self.result["bytes_per_token"] = self.bytes_of(self.cache) / prompt.numel()

    def seconds(self, tokens: int) -> float:
        """Return the time per generated token, and restore the cache."""
        token = torch.zeros(1, 1, dtype=torch.long)
        start = time.perf_counter()
        for _ in range(tokens):
            token = self.model(token, cache=self.cache).logits.argmax(-1)
        elapsed = time.perf_counter() - start
        self.cache.crop(-tokens)
        return elapsed / tokens


def contenders(config: LlamaConfig, dtype: torch.dtype) -> Iterator[Contender]:
    """Yield transformers' default first, then each method with a DynamicCache and with both quantised caches."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype).eval()  # type: ignore[arg-type, unused-ignore]
    model.set_attn_implementation("sdpa")
    yield Contender({"method": "torch"}, model, DynamicCache(config=config), plain_bytes)
    for spec, parameters in METHODS:
        fused = softmaxkit.apply(copy.deepcopy(model), spec, mode="fused", **parameters)
        yield Contender(make_result(spec, "fused"), fused, DynamicCache(config=config), plain_bytes)
        for bits in BITS:
            result = make_result(spec, "fused", storage=f"{bits}-bit cache")
            yield Contender(result, fused, QuantisedCache(config, bits), lambda cache: cache.nbytes)


def plain_bytes(cache: DynamicCache) -> int:
    """Return the size of a DynamicCache in bytes."""
    return sum(int(keys.nbytes + values.nbytes) for keys, values, *_ in cache)


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Time every contender in every round."""
    if arguments.heads % arguments.key_heads:
        raise ValueError(
            f"--heads must be a multiple of --key-heads, which share them, got {arguments.heads} and "
            f"{arguments.key_heads}"
        )
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=HEAD * arguments.heads,
        intermediate_size=2 * HEAD * arguments.heads,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.key_heads,
        max_position_embeddings=arguments.context + arguments.tokens,
    )
    prompt = torch.randint(0, 1000, (1, arguments.context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        every = list(contenders(config, DTYPES[arguments.dtype]))
        for contender in every:
            contender.read(prompt)
        runs = {
            name_of(contender.result, "storage"): partial(contender.seconds, arguments.tokens) for contender in every
        }
        figures = timed(runs, arguments, "generate tokens")
    shape = ("context", "tokens", "layers", "heads", "key_heads", "dtype")
    inputs = {name: getattr(arguments, name) for name in shape} | machine(arguments)
    results = [contender.result | own for contender, own in zip(every, figures.values(), strict=True)]
    for result in results:
        result["seconds_per_token"] = result.pop("seconds")
    return inputs, results


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    inputs = record["inputs"]
    yield f"{machine_line(record)}, {inputs['dtype']}, {inputs['context']} tokens of context"
    yield "time per generated token over torch's with a DynamicCache (quartiles), milliseconds, cached bytes per token"
    for result in record["results"]:
        low, high = result["time_over_torch_low"], result["time_over_torch_high"]
        yield (
            f"  {name_of(result, 'storage'):40} {result['time_over_torch']:6.2f} ({low:.2f} to {high:.2f}) "
            f"{1e3 * result['seconds_per_token']:8.2f} {result['bytes_per_token']:8.0f}"
        )


def main() -> None:
    """Print the table, and write the record."""
    parser = options(__doc__, rounds=9)
    parser.add_argument("--context", type=count, default=4096, help="tokens in the prompt (default: 4096)")
    parser.add_argument("--tokens", type=count, default=16, help="tokens generated per round (default: 16)")
    parser.add_argument("--layers", type=count, default=4, help="layers of the model (default: 4)")
    parser.add_argument("--heads", type=count, default=12, help=f"query heads, of {HEAD} channels each (default: 12)")
    parser.add_argument(
        "--key-heads", type=count, default=4, help="key heads; the query heads are a multiple of them (default: 4)"
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="float32", help="dtype of the model (default: float32)"
    )
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
