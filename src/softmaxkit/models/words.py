"""Whole words among tokens, and how many of them a model would have said."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

SPACE = ("Ġ", "▁")
"""How vocabularies write a space: byte-level byte-pair encoding, and SentencePiece."""


class Words(NamedTuple):
    """What each token of a vocabulary is to words; boolean, (tokens,).

    Attributes:
        starts: a space, and letters after it.
        goes_on: letters alone.
    """

    starts: Tensor
    goes_on: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self | None:
        """Return those of a tokenizer; None where its tokens do not say where words start."""
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        spaces = [piece.startswith(SPACE) for piece in pieces]
        letters = [tokenizer.convert_tokens_to_string([piece]).removeprefix(" ").isalpha() for piece in pieces]
        if not any(spaces):
            return None
        space, of_letters = torch.tensor(spaces), torch.tensor(letters)
        return cls(space & of_letters, ~space & of_letters)

    def tally(self, labels: Tensor, right: Tensor) -> tuple[int, int]:
        """Return how many words were said right, and how many there are.

        A word is right if all its tokens are: each is the model's first choice after all that precedes it, as LAMBADA
        has it (arXiv 1606.06031).

        Args:
            labels: tokens, (windows, tokens).
            right: were they the model's first choice? Boolean, same shape.
        """
        labels, right = labels.cpu(), right.cpu()
        # Every token that does not go on with a word begins a group, and those that go on belong to it.
        begins = ~self.goes_on[labels]
        begins[:, 0] = True
        group = begins.flatten().cumsum(0) - 1
        wrong = torch.zeros(int(group[-1]) + 1, dtype=torch.long).index_add_(0, group, (~right).flatten().long())
        words = self.starts[labels[begins]]
        return int((wrong[words] == 0).sum()), int(words.sum())
